"""What the server answers when a request never becomes one: a problem, made without the app.

No exchange is observed then, so it is counted and logged here.
"""

import logging
from typing import NamedTuple

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from app.infra.exchange import Exchange, exchange
from app.infra.metrics import REFUSED
from app.infra.web.problems import code_of, problem
from app.infra.web.request_id import request_id_header, request_id_of

logger = logging.getLogger(__name__)

CLOSE = (b"connection", b"close")

Headers = list[tuple[bytes, bytes]]


class Refusal(NamedTuple):
    """Which limit refuses, and what is said."""

    limit: str
    status: int
    detail: str


def note(refusal: Refusal) -> None:
    """Count it, and log it."""
    REFUSED.labels(refusal.limit).inc()
    logger.info("Refused before the application: %s", refusal.detail)


def refusal_bytes(refusal: Refusal, path: str, fixed: Headers) -> bytes:
    """Return the whole answer, the last of its connection. It is run in a context of its own."""
    current = Exchange(request_id_of({"headers": []}), "", path)
    exchange.set(current)
    status = refusal.status
    response = problem({"path": path}, status, code_of(status), refusal.detail)
    headers = [*fixed, *response.raw_headers, request_id_header(current), CLOSE]
    fields = b"".join(b"%s: %s\r\n" % header for header in headers)
    return STATUS_LINE[status] + fields + b"\r\n" + bytes(response.body)
