"""Checks the head of a request before the application sees the request.

Where a body ends must be beyond doubt. A proxy in front of the service that reads the same bytes
differently would give one client the answer to another client's request.
"""

import re
from functools import lru_cache

from httptools import HttpRequestParser

from app.infra.server.refusal import Headers, Refusal
from app.sections import ServerSettings

LARGE_HEAD = Refusal("header_size", 431, "The header is too large.")
WRONG_HOST = Refusal("host", 400, "There has to be one well-formed Host.")
CONNECT = Refusal("method", 501, "The method CONNECT is not supported.")
UNSUPPORTED_CODING = Refusal(
    "transfer_encoding", 501, "The only supported Transfer-Encoding is chunked."
)
AMBIGUOUS_CODING = Refusal(
    "transfer_encoding", 400, "The Transfer-Encoding does not say where the body ends."
)

# RFC 3986, §3.2.2 and §3.2.3; empty it names nobody.
HOST = re.compile(rb"(?:[\w.~!$&'()*+,;=%-]+|\[[0-9A-Fa-f:.]+\])(?::\d{0,5})?", re.ASCII)
TOKEN = re.compile(rb"[\w!#$%&'*+.^`|~-]+", re.ASCII)
CHECKED = frozenset({b"host", b"transfer-encoding"})


@lru_cache(maxsize=256)
def is_host(value: bytes) -> bool:
    """Whether it may be the value of the header Host."""
    return HOST.fullmatch(value) is not None


def head_bytes(url: bytes, headers: Headers) -> int:
    """Return how large a head is, about."""
    return len(url) + sum(len(name) + len(value) + 4 for name, value in headers)


def refusal_of(
    parser: HttpRequestParser,
    url: bytes,
    headers: Headers,
    limits: ServerSettings,
    received_bytes: int,
) -> Refusal | None:
    """Return why the head is refused. Of `received_bytes` the last may belong to the body."""
    most = limits.header_bytes
    if len(headers) > limits.header_fields:
        return LARGE_HEAD
    if received_bytes > most and head_bytes(url, headers) > most:
        return LARGE_HEAD
    if parser.should_upgrade() and parser.get_method() == b"CONNECT":
        return CONNECT  # what follows would not be HTTP
    checked = [field for field in headers if field[0] in CHECKED]
    hosts = [value for name, value in checked if name == b"host"]
    if len(hosts) != 1:
        if hosts or parser.get_http_version() != "1.0":
            return WRONG_HOST
    elif not is_host(hosts[0]):
        return WRONG_HOST
    if len(hosts) == len(checked):
        return None
    values = [value for name, value in checked if name == b"transfer-encoding"]
    return _refusal_of_coding(values, parser.get_http_version())


def _refusal_of_coding(values: list[bytes], http_version: str) -> Refusal | None:
    """Accept `chunked` and nothing else (RFC 9112, §6.1 and §6.3)."""
    if http_version != "1.1":  # a proxy that speaks HTTP/1.0 does not know the field
        return AMBIGUOUS_CODING
    if len(values) == 1 and values[0].rstrip(b" ").lower() == b"chunked":
        return None
    *others, last = [coding.strip(b" \t").lower() for coding in b",".join(values).split(b",")]
    names = [coding.partition(b";")[0].rstrip(b" \t") for coding in others]
    known_end = last == b"chunked" and names and all(map(TOKEN.fullmatch, names))
    return UNSUPPORTED_CODING if known_end and last not in names else AMBIGUOUS_CODING


def without_upgrade(parser: HttpRequestParser, url: bytes, headers: Headers) -> bytes:
    """Write the head again as it was parsed, less what asks for another protocol."""
    start = b"%s %s HTTP/%s" % (parser.get_method(), url, parser.get_http_version().encode())
    fields = [b"%s: %s" % (name, value) for name, value in headers if name != b"upgrade"]
    return b"\r\n".join([start, *fields, b"", b""])
