"""How much a body may hold, counted before it is parsed: parsing blocks the event loop.

Each value of a JSON body becomes an object, and each one that is wrong becomes an error: 60,000
unknown keys cost half a second of everybody's time. Counting separators costs 4 ms per MiB.
"""

from itertools import accumulate

from starlette.types import Scope

from app.errors import InvalidRequest

DEEPEST = 32
LONGEST_NUMBER = 400  # digits; the largest float has 309
OPENING = b"[{"
NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
DIGITS_TO_ZERO = bytes.maketrans(b"123456789", b"000000000")


def check_body_shape(scope: Scope, body: bytes, most_values: int) -> None:
    """Raise `InvalidRequest` for a body that holds more than may be parsed."""
    media_type = _media_type(scope)
    if media_type.endswith(("/json", "+json")):
        _check_json(body, most_values)
    elif media_type == "application/x-www-form-urlencoded":
        _check_form(body, most_values)


def _check_form(body: bytes, most_values: int) -> None:
    if body.count(b"&") + body.count(b";") >= most_values:
        raise InvalidRequest(f"A form may have {most_values} fields.")


def _check_json(body: bytes, most_values: int) -> None:
    """Look at what is outside of strings. It is exact up to the first error, where parsing ends."""
    if b"\0" in body or not _is_utf8(body):
        raise InvalidRequest("JSON has to be in UTF-8.")  # RFC 8259, section 8.1
    unescaped = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    too_many = InvalidRequest(f"A body may hold {most_values} values.")
    if unescaped.count(b'"') > 4 * most_values:  # the quotes of as many keys and values
        raise too_many
    outside = b"".join(unescaped.split(b'"')[::2])
    containers = outside.count(b"[") + outside.count(b"{")
    if outside.count(b",") + containers > most_values:
        raise too_many
    if containers > DEEPEST and _depth(outside, most_values) > DEEPEST:
        raise InvalidRequest(f"A body may be nested {DEEPEST} levels deep.")
    if b"0" * LONGEST_NUMBER in outside.translate(DIGITS_TO_ZERO):
        raise InvalidRequest(f"A number may have {LONGEST_NUMBER} digits.")


def _depth(outside: bytes, most_values: int) -> int:
    brackets = outside.translate(None, NO_BRACKETS)
    brackets = brackets[: 2 * most_values]  # past these, one is closed too often
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
