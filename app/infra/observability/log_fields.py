"""Prepares what code passes as `extra={…}` for a log line.

The result is bounded, contains no secrets, and can always be rendered as JSON.
"""

import logging
import re
from typing import Any

# Uvicorn adds `color_message` to its records.
STANDARD = {*vars(logging.makeLogRecord({})), "message", "asctime", "color_message"}
SECRET_NAME = (
    r"(?:pass(?:word|wd|phrase)|secret|token|credential|authorization|cookie"
    r"|(?:api|private)[_-]?key)"
)
SECRET = re.compile(SECRET_NAME, re.IGNORECASE)
# The value in password='a b', {"token": b"c"} or (b'authorization', b'Bearer d'). Its end may be
# cut off.
VALUE = r"""(?:b?'(?:[^'\\]|\\.)*(?:'|$)|b?"(?:[^"\\]|\\.)*(?:"|$)|[^\s,)}]+)"""
SECRET_ATTRIBUTE = re.compile(rf"({SECRET_NAME}\w*['\"]?\s*[=:,]\s*){VALUE}", re.IGNORECASE)
URL_PASSWORD = re.compile(r"(://[^\s:/@]*:)[^\s/@]+@")
HIDDEN = "***"
MAX_NAME, MAX_TEXT, MAX_ITEMS, MAX_DEPTH = 64, 1_000, 50, 4
MAX_INTEGER = 2**63


def extra_fields(record: logging.LogRecord) -> dict[str, Any]:
    names = vars(record).keys() - STANDARD
    if not names:
        return {}
    return _mapping({name: vars(record)[name] for name in sorted(names)}, MAX_DEPTH)


def _mapping(values: dict[Any, Any], depth: int) -> dict[str, Any]:
    shown: dict[str, Any] = {}
    for key, value in list(values.items())[:MAX_ITEMS]:
        name = str(_json_value(key, 0))[:MAX_NAME]
        shown[name] = HIDDEN if SECRET.search(name) else _json_value(value, depth)
    return shown


def _json_value(value: object, depth: int) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, float):  # or a subclass, such as a number of NumPy
        return float(value)
    if type(value) is int and -MAX_INTEGER <= value < MAX_INTEGER:
        return value
    if isinstance(value, str):
        return URL_PASSWORD.sub(rf"\1{HIDDEN}@", value[:MAX_TEXT])
    if depth and isinstance(value, dict):
        return _mapping(value, depth - 1)
    if depth and isinstance(value, (list, tuple, set, frozenset)):
        items = list(value)[:MAX_ITEMS]
        if len(items) == 2 and SECRET.search(str(_json_value(items[0], 0))):  # a header as a pair
            items[1] = HIDDEN
        return [_json_value(item, depth - 1) for item in items]
    return _representation(value)


def _representation(value: object) -> str:
    kind = type(value).__name__
    if isinstance(value, (dict, list, tuple, set, frozenset)):  # too deep, and may hold secrets
        return f"<{kind}>"
    try:
        text = repr(value)[:MAX_TEXT]
    except Exception:  # `__repr__` is any code, and logging must not fail
        return f"<{kind}, which cannot be shown>"
    return URL_PASSWORD.sub(rf"\1{HIDDEN}@", SECRET_ATTRIBUTE.sub(rf"\1{HIDDEN}", text))
