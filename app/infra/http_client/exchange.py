"""Sends one request and reads its response, up to a limit on its size."""

import asyncio
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from time import perf_counter
from typing import Any

from aiohttp import (
    ClientConnectorDNSError,
    ClientConnectorError,
    ClientError,
    ClientResponse,
    ClientSession,
    ConnectionTimeoutError,
    InvalidURL,
)
from yarl import URL

from app.errors import Unavailable
from app.infra.http_client.failures import Reason, UpstreamFailed
from app.infra.http_client.public_network import NotPublic
from app.infra.observability.metrics import UPSTREAM_RUNNING, UPSTREAM_SECONDS, exact
from app.infra.observability.repeat_filter import RepeatFilter
from app.infra.observability.request_context import request_context

logger = logging.getLogger(__name__)
logger.addFilter(RepeatFilter())  # while a service is down, every call of it fails

JSON = {"Content-Type": "application/json"}
TOO_MANY_REQUESTS = 429
SECONDS = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True, slots=True)
class Call:
    """A request. Its body, if it has one, is JSON."""

    method: str
    url: URL
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """A response. If it has a `defect`, its body was not read."""

    status: int
    headers: Mapping[str, str]
    body: bytes = b""
    defect: Reason | None = None

    @property
    def failure(self) -> Reason | None:
        """Why it is not a success, or None if it is one."""
        if self.is_unhealthy:
            return "unhealthy"
        if self.status >= 400:
            return "refused"
        return "redirect" if self.status >= 300 else self.defect

    @property
    def is_unhealthy(self) -> bool:
        """Whether the service says that it cannot answer at the moment."""
        return self.status >= 500 or self.status == TOO_MANY_REQUESTS

    @property
    def wait_seconds(self) -> float:
        """The Retry-After of the response: a number of seconds, or a date."""
        value = self.headers.get("Retry-After", "")
        if SECONDS.fullmatch(value):
            return int(value)
        try:
            date = parsedate_to_datetime(value)
        except (ValueError, OverflowError):
            return 0
        # HTTP has dates in UTC only. Two of its three formats do not say so.
        return max(0.0, (date.replace(tzinfo=UTC) - datetime.now(UTC)).total_seconds())


async def exchange(session: ClientSession, name: str, call: Call, most_bytes: int) -> Reply:
    """Send a request, and read the response up to `most_bytes`. Redirects are not followed.

    Raises `UpstreamFailed` if there is no complete response. The messages of aiohttp contain the
    URL, which may be personal data. So they are neither logged nor chained.
    """
    headers = dict(call.headers) if call.body is None else {**JSON, **call.headers}
    options: dict[str, Any] = {"headers": headers, "data": call.body, "allow_redirects": False}
    try:
        async with session.request(call.method, call.url, **options) as response:
            return await _read(response, most_bytes)
    except (ClientError, OSError, UnicodeError) as error:
        logger.warning("A call of the upstream %s failed: %s", name, _describe(error))
        raise UpstreamFailed(name, _reason(error)) from None


@contextmanager
def measured(name: str) -> Iterator[None]:
    """Count one exchange with this upstream, its duration and its result."""
    started, result = perf_counter(), "error"
    running = UPSTREAM_RUNNING.labels(name)
    running.inc()
    try:
        yield
        result = "ok"
    except UpstreamFailed as error:
        result = error.reason
        raise
    except Unavailable:  # this process has too much to do to look the name up
        result = "skipped"
        raise
    except asyncio.CancelledError:
        result = "cancelled"
        raise
    finally:
        running.dec()
        seconds = exact(perf_counter() - started)
        UPSTREAM_SECONDS.labels(name, result).observe(seconds)
        if (current := request_context.get()) is not None:
            current.add_upstream_time(name, seconds)


async def _read(response: ClientResponse, most_bytes: int) -> Reply:
    status, headers = response.status, response.headers
    encoding = headers.get("Content-Encoding", "identity")
    if encoding.strip().lower() != "identity":  # we asked for no compression
        response.close()
        return Reply(status, headers, defect="invalid")
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > most_bytes:
            response.close()  # do not read the rest
            return Reply(status, headers, defect="too_large")
    return Reply(status, headers, bytes(body))


def _reason(error: Exception) -> Reason:
    if isinstance(error, ClientConnectorError) and isinstance(error.os_error, NotPublic):
        return "not_public"
    if isinstance(error, (ClientConnectorDNSError, InvalidURL, UnicodeError)):
        return "unresolved"
    if isinstance(error, (ClientConnectorError, ConnectionTimeoutError)):
        return "unreachable"
    return "broken"


def _describe(error: Exception) -> str:
    cause = error.os_error.strerror if isinstance(error, ClientConnectorError) else None
    return f"{type(error).__name__}, {cause}" if cause else type(error).__name__
