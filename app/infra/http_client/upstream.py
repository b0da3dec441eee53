"""Calls of one other service, whose address is a setting."""

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from itertools import count
from typing import Any, TypeVar
from urllib.parse import unquote

import orjson
from aiohttp import ClientSession
from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_jsonable_python
from yarl import URL

from app.infra.breaker import Breaker, BreakerOpen
from app.infra.http_client.deadline import end_of_request
from app.infra.http_client.exchange import Call, Reply, exchange, measured
from app.infra.http_client.failures import UpstreamFailed
from app.infra.http_client.settings import HttpClientSettings
from app.infra.observability.metrics import UPSTREAM_RETRIES
from app.infra.observability.request_context import request_context
from app.infra.observability.tracing import span, trace_headers

logger = logging.getLogger(__name__)

T = TypeVar("T")
Query = Mapping[str, str | int]

IDEMPOTENT = frozenset({"GET", "HEAD", "PUT", "DELETE"})  # RFC 9110, §9.2.2
# Another attempt may succeed after one of these. After a timeout, no time is left.
TRANSIENT = frozenset({"unresolved", "unreachable", "broken", "unhealthy"})
DOTS = frozenset({".", ".."})
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.1, 1.0


class Upstream:
    """Another service. Each call raises `UpstreamFailed` if it does not succeed.

    A call ends within `total_seconds`, and before the request in which it is made. An idempotent
    call is tried again within that time. After three failures in a row the breaker opens: calls
    then fail at once, except for one probe at a time.
    """

    def __init__(
        self,
        session: ClientSession,
        settings: HttpClientSettings,
        name: str,
        base_url: str,
        headers: Mapping[str, str],
        total_seconds: float | None,
        running: Counter[URL],
    ) -> None:
        self.name = name
        self._session = session
        self._settings = settings
        self._base_url = base_url.rstrip("/")
        self._headers = dict(headers)
        self._total_seconds = total_seconds or settings.total_seconds
        self._breaker = Breaker(self._log_failure, self._log_recovery)
        self._running = running  # the calls of all upstreams, which share the connections of a host
        self._host = URL(base_url).origin()

    @property
    def is_open(self) -> bool:
        """Whether the breaker keeps calls back."""
        return self._breaker.is_open

    async def get_json(self, path: str, into: type[T], query: Query | None = None) -> T:
        """GET a path below the base URL, and return its JSON as `into`."""
        call = Call("GET", self._url(path, query), self._headers)
        return await self._call(call, into, is_idempotent=True)

    async def send_json(
        self, method: str, path: str, body: object, into: type[T], idempotency_key: str = ""
    ) -> T:
        """Send `body`, and return the JSON of the response as `into`. No content is None.

        A POST is tried again only with an `idempotency_key`, by which the other service recognises
        the second attempt.
        """
        key = {"Idempotency-Key": idempotency_key} if idempotency_key else {}
        content = orjson.dumps(body, default=to_jsonable_python)
        call = Call(method, self._url(path), {**self._headers, **key}, content)
        return await self._call(
            call, into, is_idempotent=method in IDEMPOTENT or bool(idempotency_key)
        )

    async def _call(self, call: Call, into: type[T], *, is_idempotent: bool) -> T:
        """Make the attempts of one call. They share its time."""
        loop, limit = asyncio.get_running_loop(), end_of_request()
        until = loop.time() + self._total_seconds
        last = until if limit is None else min(until, limit)
        retries = self._settings.retries if is_idempotent else 0
        for number in count():
            try:
                return await self._attempt(call, into, until)
            except UpstreamFailed as error:
                pause = max(_pause(number), error.wait_seconds)
                if number == retries or error.reason not in TRANSIENT or loop.time() + pause > last:
                    raise
            UPSTREAM_RETRIES.labels(self.name).inc()
            await asyncio.sleep(pause)
        raise AssertionError

    async def _attempt(self, call: Call, into: type[T], until: float) -> T:
        with measured(self.name), span("upstream", upstream=self.name) as current:
            headers = {**call.headers, **_request_id(), **trace_headers(current)}
            reply = await self._exchange(replace(call, headers=headers), until)
            if (reason := reply.failure) is not None:
                raise UpstreamFailed(self.name, reason, reply.status)
            try:
                validated: T = _validated(into, reply.body)
            except ValidationError:
                # Its text contains the values.
                raise UpstreamFailed(self.name, "invalid", reply.status) from None
            return validated

    async def _exchange(self, call: Call, until: float) -> Reply:
        """Send the call, if the breaker lets it through.

        The breaker counts what is the fault of the service: that it did not answer in its time, or
        says that it cannot. It does not count that the service had less time, because the request
        ended, or because the call had to wait for one of our connections.
        """
        limit: float | None = until
        # When `end` is over, the call is cancelled, and the breaker does not count that.
        end = end_of_request()
        if self._has_no_free_connection():
            limit, end = None, until if end is None else min(until, end)
        self._running[self._host] += 1
        try:
            async with asyncio.timeout_at(end):
                with self._breaker.call():
                    return await self._answer(call, limit)
        except BreakerOpen:
            raise UpstreamFailed(self.name, "skipped") from None
        except TimeoutError:
            raise UpstreamFailed(self.name, "timeout") from None
        finally:
            self._running[self._host] -= 1

    def _has_no_free_connection(self) -> bool:
        settings, running = self._settings, self._running
        return (
            running[self._host] >= settings.connections_per_host
            or running.total() >= settings.connections
        )

    async def _answer(self, call: Call, until: float | None) -> Reply:
        try:
            async with asyncio.timeout_at(until):
                reply = await exchange(self._session, self.name, call, self._settings.body_bytes)
        except TimeoutError:
            raise UpstreamFailed(self.name, "timeout") from None
        if reply.is_unhealthy:
            raise UpstreamFailed(self.name, "unhealthy", reply.status, reply.wait_seconds)
        return reply

    def _url(self, path: str, query: Query | None = None) -> URL:
        """Return a URL below the base URL.

        Raises ValueError if the path leads elsewhere, because it contains text that is not quoted.
        """
        parts = path.split("/")
        if parts[0] or not DOTS.isdisjoint(map(unquote, parts)) or {*"?#"} & {*path}:
            raise ValueError("A path begins with /, and its parts are quoted: quote(part, safe='')")
        url = URL(f"{self._base_url}{path}")
        return url.with_query(query) if query else url

    def _log_failure(self, error: Exception) -> None:
        reason = error.reason if isinstance(error, UpstreamFailed) else type(error).__name__
        logger.warning(
            "The upstream %s fails (%s). Until it answers again, calls of it fail at once.",
            *(self.name, reason),
        )

    def _log_recovery(self) -> None:
        logger.warning("The upstream %s answers again.", self.name)


def _request_id() -> dict[str, str]:
    current = request_context.get()
    return {} if current is None else {"X-Request-ID": current.request_id}


def _pause(number: int) -> float:
    """Return the pause after this attempt: up to twice as long each time, with full jitter."""
    longest = min(FIRST_PAUSE_SECONDS * 2**number, LONGEST_PAUSE_SECONDS)
    return random.uniform(0, longest)  # noqa: S311 - jitter


def _validated(into: Any, body: bytes) -> Any:
    return _adapter(into).validate_json(body or b"null")


@lru_cache(maxsize=256)
def _adapter(into: Any) -> TypeAdapter[Any]:
    return TypeAdapter(into)
