"""Checks the head of a request before the application receives the request.

The end of a body must be unambiguous. If a proxy in front of the service interprets the same bytes
differently, one client receives the response to another client's request (request smuggling).
"""

import re
from functools import lru_cache

from httptools import HttpRequestParser

from graceful_gunicorn.config import Headers, ServerConfig
from graceful_gunicorn.early_errors import (
    AMBIGUOUS_TRANSFER_ENCODING,
    CONNECT_METHOD,
    INVALID_HOST,
    LARGE_HEAD,
    UNSUPPORTED_TRANSFER_ENCODING,
    EarlyRefusal,
)

# RFC 3986, §3.2.2 and §3.2.3. An empty host is invalid here, because it names no server.
HOST = re.compile(rb"(?:[\w.~!$&'()*+,;=%-]+|\[[0-9A-Fa-f:.]+\])(?::\d{0,5})?", re.ASCII)
TOKEN = re.compile(rb"[\w!#$%&'*+.^`|~-]+", re.ASCII)
CHECKED_FIELDS = frozenset({b"host", b"transfer-encoding"})


@lru_cache(maxsize=256)
def is_valid_host(value: bytes) -> bool:
    """Return whether `value` is allowed as the value of a Host header."""
    return HOST.fullmatch(value) is not None


def check_head(
    parser: HttpRequestParser,
    url: bytes,
    headers: Headers,
    limits: ServerConfig,
    received_bytes: int,
) -> EarlyRefusal | None:
    """Return why the head is refused, or None.

    The last part of `received_bytes` may belong to the body.
    """
    if len(headers) > limits.header_fields:
        return LARGE_HEAD
    if received_bytes > limits.header_bytes:  # a cheap upper bound
        size = len(url) + sum(len(name) + len(value) + 4 for name, value in headers)
        if size > limits.header_bytes:
            return LARGE_HEAD
    if parser.should_upgrade() and parser.get_method() == b"CONNECT":
        return CONNECT_METHOD  # the bytes after this head would not be HTTP
    checked = [field for field in headers if field[0] in CHECKED_FIELDS]
    hosts = [value for name, value in checked if name == b"host"]
    if len(hosts) != 1:
        if hosts or parser.get_http_version() != "1.0":
            return INVALID_HOST
    elif not is_valid_host(hosts[0]):
        return INVALID_HOST
    if len(hosts) == len(checked):
        return None
    values = [value for name, value in checked if name == b"transfer-encoding"]
    return _check_transfer_encoding(values, parser.get_http_version())


def _check_transfer_encoding(values: list[bytes], http_version: str) -> EarlyRefusal | None:
    """Accept `chunked` and nothing else (RFC 9112, §6.1 and §6.3)."""
    if http_version != "1.1":  # a proxy that speaks HTTP/1.0 does not know the header
        return AMBIGUOUS_TRANSFER_ENCODING
    if len(values) == 1 and values[0].rstrip(b" ").lower() == b"chunked":
        return None
    *others, last = [coding.strip(b" \t").lower() for coding in b",".join(values).split(b",")]
    names = [coding.partition(b";")[0].rstrip(b" \t") for coding in others]
    # After other codings, a final `chunked` still defines where the body ends. That is a valid
    # request, which this server does not support.
    end_is_defined = last == b"chunked" and names and all(map(TOKEN.fullmatch, names))
    if end_is_defined and last not in names:
        return UNSUPPORTED_TRANSFER_ENCODING
    return AMBIGUOUS_TRANSFER_ENCODING


def head_without_upgrade(parser: HttpRequestParser, url: bytes, headers: Headers) -> bytes:
    """Serialise a parsed head again, without its Upgrade headers."""
    start = b"%s %s HTTP/%s" % (parser.get_method(), url, parser.get_http_version().encode())
    fields = [b"%s: %s" % (name, value) for name, value in headers if name != b"upgrade"]
    return b"\r\n".join([start, *fields, b"", b""])
