"""Sends response heads that were checked and encoded once, when the responses were stored.

Uvicorn checks and encodes every header of every response, and sends the head and the body with one
system call each. An application can put an `EncodedHead` into `http.response.start`, besides the
headers. Other servers ignore it. This server sends it if the first headers of the message are those
of the `EncodedHead`, and encodes the headers after them. Otherwise middleware has changed a header,
and Uvicorn encodes all of them.
"""

from collections.abc import Awaitable, Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from uvicorn.protocols.http.httptools_impl import (
    HEADER_RE,
    HEADER_VALUE_RE,
    STATUS_LINE,
    RequestResponseCycle,
)

from graceful_gunicorn.config import Headers

Application = Callable[[Any, Any, Any], Awaitable[None]]

ENCODED_HEAD = "graceful_gunicorn.encoded_head"  # the key of the message

NOT_MODIFIED = 304  # has no body, whatever its headers say
# They decide where the response ends, and whether the connection ends with it.
FRAMING = frozenset((b"content-length", b"transfer-encoding", b"connection"))
INVALID_IN_VALUES = b"".join(HEADER_VALUE_RE.findall(bytes(range(256))))


class EncodedHead(NamedTuple):
    """The status line and the first headers of a response. `content` are their bytes."""

    status: int
    headers: Headers
    content_length: int
    content: bytes


def encode_head(status: int, headers: Headers) -> EncodedHead | None:
    """Encode a head with names in lower case. It has one Content-Length, but none if it is a 304.

    Return None if Uvicorn has to encode it: a header is not valid, or is Transfer-Encoding or
    Connection.
    """
    names = [name for name, _ in headers]
    has_length = b"content-length" in names
    at = names.index(b"content-length") if has_length else len(names)
    length = headers[at][1] if has_length else b"0"
    before, after = encode_lines(headers[:at]), encode_lines(headers[at + 1 :])
    is_framed = length.isdigit() and has_length != (status == NOT_MODIFIED)
    if before is None or after is None or not is_framed:
        return None
    framing = b"content-length: %b\r\n" % length if has_length else b""
    content = b"".join((STATUS_LINE[status], before, framing, after))
    return EncodedHead(status, headers, int(length), content)


def decode_head(content: bytes, content_length: int) -> EncodedHead:
    """Return the head that has this `content`, which `encode_head` made."""
    status_line, *lines = content.split(b"\r\n")[:-1]
    headers = [_decode_line(line) for line in lines]
    return EncodedHead(int(status_line[9:12]), headers, content_length, content)


def sending_encoded_heads(app: Application) -> Application:
    """Let an application that Uvicorn calls send `EncodedHead`."""

    def call(scope: Any, receive: Any, send: Any) -> Awaitable[None]:
        return app(scope, receive, _Sender(send.__self__))  # a method of the cycle

    return call


class _Sender:
    """The `send` of one request. It knows `EncodedHead`, and passes everything else to Uvicorn."""

    __slots__ = ("_cycle", "_held")

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = cycle
        self._held = b""  # a head that will be sent together with the beginning of the body

    def __call__(self, message: Any) -> Awaitable[None]:
        encoded: EncodedHead | None = message.get(ENCODED_HEAD)
        if self._held:
            message = {**message, "body": self._held + message.get("body", b"")}
            self._held = b""
        elif encoded is not None and (head := self._head(encoded, message)):
            return self._start(encoded, head)
        return self._cycle.send(message)

    async def _start(self, encoded: EncodedHead, head: bytes) -> None:
        cycle = self._cycle
        cycle.response_started = True
        cycle.waiting_for_100_continue = cycle.chunked_encoding = False
        if cycle.scope["method"] == "HEAD":
            cycle.transport.write(head)
        else:
            self._held = head
            cycle.expected_content_length = len(head) + encoded.content_length

    def _head(self, encoded: EncodedHead, message: Any) -> bytes | None:
        """Return the head of the response, or None if Uvicorn has to encode it."""
        cycle, headers, count = self._cycle, message["headers"], len(encoded.headers)
        if (
            cycle.response_started
            or cycle.disconnected
            or not cycle.keep_alive
            or cycle.flow.write_paused
            or cycle.access_log
            or message["status"] != encoded.status
            or not isinstance(headers, list)
            or headers[:count] != encoded.headers
        ):
            return None
        lines = encode_lines([*cycle.default_headers, *headers[count:]])
        return None if lines is None else b"".join((encoded.content, lines, b"\r\n"))


def encode_lines(headers: Sequence[tuple[bytes, bytes]]) -> bytes | None:
    """Return the lines of headers, or None if one is not valid or is one of FRAMING."""
    template = _template_of(tuple([name for name, _ in headers]))
    values = tuple([value for _, value in headers])
    if template is None:
        return None
    joined = b"".join(values)
    # Deleting bytes from all values at once takes a third of the time of a search.
    is_valid = len(joined) == len(joined.translate(None, INVALID_IN_VALUES))
    return template % values if is_valid else None


@lru_cache(maxsize=256)
def _template_of(names: tuple[bytes, ...]) -> bytes | None:
    """Return lines with `%b` for each value, or None if a name is not valid or is of FRAMING."""
    names = tuple([name.lower() for name in names])
    if any(name in FRAMING or HEADER_RE.search(name) for name in names):
        return None
    return b"".join([name.replace(b"%", b"%%") + b": %b\r\n" for name in names])


@lru_cache(maxsize=1_000)
def _decode_line(line: bytes) -> tuple[bytes, bytes]:
    """Return a header. Many responses have the same headers, and need the memory for them once."""
    name, _, value = line.partition(b": ")
    return name, value
