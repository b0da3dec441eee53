"""Limits how many values a body holds, before it is parsed: parsing blocks the event loop.

Validation costs time for each value and each error. 60,000 unknown keys would block the event loop
for half a second. Counting separators takes 4 ms for a MiB.
"""

from itertools import accumulate

from starlette.types import Scope

from app.errors import InvalidRequest

MAX_DEPTH = 32
MAX_DIGITS = 400  # the largest float has 309
OPENING = b"[{"
NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
DIGITS_TO_ZERO = bytes.maketrans(b"123456789", b"000000000")


def check_body_shape(scope: Scope, body: bytes, max_values: int) -> None:
    """Raise `InvalidRequest` for JSON or a form with too many values."""
    media_type = _media_type(scope)
    if media_type.endswith(("/json", "+json")):
        _check_json(body, max_values)
    elif media_type == "application/x-www-form-urlencoded":
        _check_form(body, max_values)


def _check_form(body: bytes, max_values: int) -> None:
    if body.count(b"&") + body.count(b";") >= max_values:
        raise InvalidRequest(f"The form has more than {max_values} fields.")


def _check_json(body: bytes, max_values: int) -> None:
    """Count separators outside of strings. The parser rejects JSON that is miscounted."""
    if b"\0" in body or not _is_utf8(body):
        raise InvalidRequest("The JSON is not encoded as UTF-8.")  # RFC 8259, section 8.1
    unescaped = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    too_many = InvalidRequest(f"The body has more than {max_values} values.")
    if unescaped.count(b'"') > 4 * max_values:  # two for each key, two for each value
        raise too_many
    outside_strings = b"".join(unescaped.split(b'"')[::2])
    containers = outside_strings.count(b"[") + outside_strings.count(b"{")
    if outside_strings.count(b",") + containers > max_values:
        raise too_many
    if containers > MAX_DEPTH and _depth(outside_strings, max_values) > MAX_DEPTH:
        raise InvalidRequest(f"The body is nested more than {MAX_DEPTH} levels deep.")
    if b"0" * MAX_DIGITS in outside_strings.translate(DIGITS_TO_ZERO):
        raise InvalidRequest(f"A number has {MAX_DIGITS} digits or more.")


def _depth(outside_strings: bytes, max_values: int) -> int:
    brackets = outside_strings.translate(None, NO_BRACKETS)
    brackets = brackets[: 2 * max_values]  # any more brackets are unbalanced
    return max(accumulate(1 if bracket in OPENING else -1 for bracket in brackets))


def _is_utf8(body: bytes) -> bool:
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True


def _media_type(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"content-type":
            return str(value, "latin-1").partition(";")[0].strip().lower()
    return ""
