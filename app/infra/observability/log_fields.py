"""The values of `extra={…}` as a log line holds them: bounded, without secrets, never an error."""

import logging
import re
from typing import Any

# `color_message` is what Uvicorn says in colours beside its message.
STANDARD = {*vars(logging.makeLogRecord({})), "message", "asctime", "color_message"}
SECRET_NAME = (
    r"(?:pass(?:word|wd|phrase)|secret|token|credential|authorization|cookie"
    r"|(?:api|private)[_-]?key)"
)
SECRET = re.compile(SECRET_NAME, re.IGNORECASE)
# In a representation: password='a b', {"token": b"c"} or (b'authorization', b'Bearer d'). Its end
# may have been cut off.
VALUE = r"""(?:b?'(?:[^'\\]|\\.)*(?:'|$)|b?"(?:[^"\\]|\\.)*(?:"|$)|[^\s,)}]+)"""
SECRET_ATTRIBUTE = re.compile(rf"({SECRET_NAME}\w*['\"]?\s*[=:,]\s*){VALUE}", re.IGNORECASE)
URL_PASSWORD = re.compile(r"(://[^\s:/@]*:)[^\s/@]+@")
HIDDEN = "***"
MOST_NAME, MOST_TEXT, MOST_ITEMS, DEEPEST = 64, 1_000, 50, 4
WIDEST = 2**63


def extra_of(record: logging.LogRecord) -> dict[str, Any]:
    """Return what was logged besides the message."""
    names = vars(record).keys() - STANDARD
    if not names:
        return {}
    return _mapping({name: vars(record)[name] for name in sorted(names)}, DEEPEST)


def _mapping(values: dict[Any, Any], depth: int) -> dict[str, Any]:
    shown: dict[str, Any] = {}
    for key, value in list(values.items())[:MOST_ITEMS]:
        name = str(_plain(key, 0))[:MOST_NAME]
        shown[name] = HIDDEN if SECRET.search(name) else _plain(value, depth)
    return shown


def _plain(value: object, depth: int) -> Any:
    """Return a value that JSON has."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, float):  # or something that derives from it, such as NumPy's
        return float(value)
    if type(value) is int and -WIDEST <= value < WIDEST:
        return value
    if isinstance(value, str):
        return URL_PASSWORD.sub(rf"\1{HIDDEN}@", value[:MOST_TEXT])
    if depth and isinstance(value, dict):
        return _mapping(value, depth - 1)
    if depth and isinstance(value, (list, tuple, set, frozenset)):
        items = list(value)[:MOST_ITEMS]
        if len(items) == 2 and SECRET.search(str(_plain(items[0], 0))):  # a header as a pair
            items[1] = HIDDEN
        return [_plain(item, depth - 1) for item in items]
    return _shown(value)


def _shown(value: object) -> str:
    """Return the representation of anything else. A container that is too deep may hold secrets."""
    kind = type(value).__name__
    if isinstance(value, (dict, list, tuple, set, frozenset)):
        return f"<{kind}>"
    try:
        text = repr(value)[:MOST_TEXT]
    except Exception:  # it is not ours, and logging must not fail
        return f"<{kind}, which cannot be shown>"
    return URL_PASSWORD.sub(rf"\1{HIDDEN}@", SECRET_ATTRIBUTE.sub(rf"\1{HIDDEN}", text))
