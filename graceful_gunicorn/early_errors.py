"""Responses to requests that exceed a limit and are refused before they reach the application."""

import logging
from http import HTTPStatus
from typing import NamedTuple

from graceful_gunicorn.config import Headers, ServerConfig

logger = logging.getLogger(__name__)

CLOSE = (b"connection", b"close")


class EarlyRefusal(NamedTuple):
    """Which limit a request exceeds, and the status and sentence that the client receives."""

    limit: str
    status: int
    detail: str

    @property
    def code(self) -> str:
        """The stable code of the error, such as `request_timeout`."""
        return HTTPStatus(self.status).name.lower()


SLOW_HEAD = EarlyRefusal("header_seconds", 408, "The header took too long to arrive.")
SLOW_BODY = EarlyRefusal("body_seconds", 408, "The body took too long to arrive.")
# This one is counted and logged only: a client that does not read would not read an error either.
SLOW_READER = EarlyRefusal("write_seconds", 408, "The client did not read the response.")
MALFORMED = EarlyRefusal("malformed", 400, "The request is not valid HTTP/1.1.")
LARGE_HEAD = EarlyRefusal("header_size", 431, "The header is too large.")
INVALID_HOST = EarlyRefusal("host", 400, "The request must have exactly one valid Host header.")
CONNECT_METHOD = EarlyRefusal("method", 501, "The method CONNECT is not supported.")
UNSUPPORTED_TRANSFER_ENCODING = EarlyRefusal(
    "transfer_encoding", 501, "The only supported Transfer-Encoding is chunked."
)
AMBIGUOUS_TRANSFER_ENCODING = EarlyRefusal(
    "transfer_encoding", 400, "The Transfer-Encoding does not define where the body ends."
)


def record_refusal(refusal: EarlyRefusal, config: ServerConfig) -> None:
    """Count and log a refused request."""
    config.on_refused(refusal.limit)
    logger.info("Refused a request before it reached the application: %s", refusal.detail)


def render_refusal(
    refusal: EarlyRefusal, path: str, default_headers: Headers, config: ServerConfig
) -> bytes:
    """Return the complete response. It has `Connection: close`."""
    status = HTTPStatus(refusal.status)
    headers, body = config.render_error(refusal.status, refusal.code, refusal.detail, path)
    status_line = b"HTTP/1.1 %d %s\r\n" % (status, status.phrase.encode())
    fields = b"".join(b"%s: %s\r\n" % header for header in (*default_headers, *headers, CLOSE))
    return status_line + fields + b"\r\n" + body
