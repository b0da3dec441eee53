"""Requests as bytes, for tests that need control over every byte that a client sends."""

HOST = b"Host: test\r\n"
GET = b"GET / HTTP/1.1\r\n" + HOST + b"\r\n"
H2C = (
    b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
    b"HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n"
)
WEBSOCKET = (
    b"Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)

# The beginnings of requests after which the connection ends.
LAST_REQUESTS = [
    b"POST /early HTTP/1.1\r\nConnection: close\r\n" + HOST,
    b"POST /early HTTP/1.0\r\n" + HOST,
    b"POST /early HTTP/1.0\r\nConnection: keep-alive\r\n" + HOST,
]


def header_fields(number: int, value: bytes = b"x") -> bytes:
    return b"".join(b"X-%d: %s\r\n" % (index, value) for index in range(number))


def post(headers: bytes, framed_body: bytes) -> bytes:
    """Return a POST request. `framed_body` is the result of one of the functions below."""
    return b"POST /first HTTP/1.1\r\n" + HOST + headers + framed_body


def with_content_length(body: bytes) -> bytes:
    return b"Content-Length: %d\r\n\r\n%s" % (len(body), body)


def in_one_chunk(body: bytes) -> bytes:
    return b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)


def in_many_chunks(body: bytes) -> bytes:
    """Use chunks of 1,000 bytes, with a chunk extension on each chunk and a trailer."""
    pieces = [body[at : at + 1_000] for at in range(0, len(body), 1_000)]
    chunks = b"".join(b"%x;a=b\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    return b"Transfer-Encoding: Chunked\r\n\r\n" + chunks + b"0\r\nX-Trailer: a\r\n\r\n"
