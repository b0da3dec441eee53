"""Answers GET requests for `cacheable` routes from the cache, before the framework routes them.

A response that is cached is loaded by a request of its own. That request has the path and the
sorted query, and no header of the client that asked first, so nothing about that client can get
into the answers of others. A response that must not be stored (RFC 9111 §3) is not shared either.
"""

import asyncio
import logging
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import Unavailable
from app.infra.cache.settings import CacheSettings
from app.infra.observability.request_context import RequestContext, request_context
from app.infra.web.cacheable import cache_key
from app.infra.web.captured_response import CapturedResponse, send_captured
from app.infra.web.conditional_requests import CacheRequestHeaders, read_cache_headers
from app.infra.web.known_route import KnownRoute
from app.infra.web.problems import problem_of, refuse
from app.infra.web.rate_limit import count_hit
from app.infra.web.rate_limited import Limits
from app.infra.web.routing import route_table_of
from app.infra.web.stored_response import decode, encode, prepare, send_entry, send_stored
from coherent_cache import READ_SECONDS, CacheBusy, Entry, NoCache, Reader, Source

logger = logging.getLogger(__name__)

# The only parts of the first client's request that a load gets.
COPIED_KEYS = ("type", "asgi", "http_version", "method", "path", "root_path", "server", "app")


class UncacheableResponse(Exception):
    """A load gave a response that must not be stored."""

    def __init__(self, response: CapturedResponse) -> None:
        super().__init__()
        self.response = response


class _Request(NamedTuple):
    scope: Scope
    receive: Receive
    send: Send
    conditions: CacheRequestHeaders


class ResponseCacheMiddleware:
    """Pure ASGI. Answers from the memory of this process first.

    `app.state.cache_reader` reads the cache. Nothing is cached before the lifespan replaces it.
    """

    def __init__(self, app: ASGIApp, settings: CacheSettings) -> None:
        self.app = app
        self._settings = settings
        self._lifespan_state: dict[str, Any] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            # Starlette puts into this dict what the lifespan yields.
            self._lifespan_state = scope.get("state", {})
        if scope["type"] != "http" or scope["method"] != "GET":
            await self.app(scope, receive, send)
            return
        conditions = read_cache_headers(scope)
        reader: Reader | NoCache = scope["app"].state.cache_reader
        if isinstance(reader, NoCache) or conditions.bypasses_cache:
            await self._route(_Request(scope, receive, send, conditions), None)
            return
        # If the URL is the cache key, routing is skipped.
        key = f"{scope['path']}?{scope['query_string'].decode('latin-1')}"
        if not conditions.skips_memory and (entry := reader.get_from_memory(key)) is not None:
            route = decode(entry).route
            if refusal := count_hit(route_table_of(scope).limits_of_cacheable(route), scope):
                await refuse(refusal, scope, receive, send)
                return
            _record(route, Source.MEMORY)
            await send_entry(entry, Source.MEMORY, conditions, send)
            return
        request = _Request(scope, receive, send, conditions)
        if (copy := reader.get_copy(key)) is not None:
            limits = route_table_of(scope).limits_of_cacheable(decode(copy).route)
            await self._read(request, key, limits, reader)
        else:
            await self._route(request, reader)

    async def _route(self, request: _Request, reader: Reader | None) -> None:
        """Find out whether the route is cacheable, and under which key. None bypasses the cache."""
        scope = request.scope
        route = route_table_of(scope).find_cacheable(scope)
        if route is None:
            await self.app(scope, request.receive, request.send)
            return
        query = scope["query_string"].decode("latin-1")
        if reader is not None and (key := cache_key(scope["path"], query, route.parameters)):
            await self._read(request, key, route.limits("GET"), reader)
        else:
            await self._bypass(request, route, _now())

    async def _read(self, request: _Request, key: str, limits: Limits, reader: Reader) -> None:
        """Answer from the cache. On a miss, the reader calls `_load`, once for all who wait."""
        if refusal := count_hit(limits, request.scope):
            await refuse(refusal, request.scope, request.receive, request.send)
            return
        began = _now()
        load = partial(self._load, key, request.scope, request_context.get())
        try:
            answer = await reader.read(key, load, skip_memory=request.conditions.skips_memory)
        except UncacheableResponse as refused:
            refused.__traceback__ = None  # its frames hold the tasks that hold it: a cycle
            route = _cacheable_route(request.scope)
            if refused.response.is_problem:
                _record(route.template, Source.BYPASS)
                await send_captured(refused.response, Source.BYPASS, request.send)
            else:
                await self._bypass(request, route, began)
        except CacheBusy as busy:
            await _refuse(request, str(busy))
        else:
            _record(decode(answer.entry).route, answer.source)
            await send_entry(answer.entry, answer.source, request.conditions, request.send)

    async def _load(self, key: str, asking: Scope, first: RequestContext | None) -> Entry:
        """Run the request that loads an entry.

        Its statements count for the client that asked first, which may leave before it ends.
        """
        own = RequestContext("-", "GET", asking["path"]) if first is None else first.child()
        own.shown_tags = set()
        request_context.set(own)
        scope = {name: asking[name] for name in COPIED_KEYS if name in asking}
        query = key.partition("?")[2].encode()
        scope |= {"scheme": "http", "headers": [], "query_string": query}
        scope["state"] = self._lifespan_state.copy()
        response = CapturedResponse()
        try:
            await self.app(scope, _receive_nothing(), response.receive_message)
        except Exception:
            # Starlette raises an exception again after it was answered. Everyone who waits gets
            # that answer, and it is logged once.
            if not response.is_complete:
                raise
            logger.exception("Unhandled exception")
        finally:
            if first is not None:
                first.merge(own)
        route, tags = _cacheable_route(asking), tuple(sorted(own.shown_tags))
        value = await encode(response, route) if response.may_be_stored and tags else None
        if value is None:
            _log_refusal(route, response, tags)
            raise UncacheableResponse(response)
        is_found = response.status == 200
        ttl = self._settings.ttl_seconds if is_found else self._settings.missing_ttl_seconds
        return Entry(key, tags, value, ttl)

    async def _bypass(self, request: _Request, route: KnownRoute, began: float) -> None:
        """Answer from the route itself, with the validators and the variants of a cached answer."""
        response = CapturedResponse()
        try:
            async with asyncio.timeout_at(began + READ_SECONDS) as limit:
                await self.app(request.scope, request.receive, response.receive_message)
        except TimeoutError:
            if not limit.expired():
                raise
            await _refuse(request, "The database took too long.")
            return
        except Exception:
            if response.is_complete:
                _record(route.template, Source.BYPASS)
                await send_captured(response, Source.BYPASS, request.send)
            raise
        _record(route.template, Source.BYPASS)
        conditions, prepared = request.conditions, None
        if response.status == 200 and response.may_be_stored:
            prepared = await prepare(response, route, compress=conditions.accepts_gzip)
        if prepared is None:
            await send_captured(response, Source.BYPASS, request.send)
        else:
            await send_stored(prepared, Source.BYPASS, conditions, request.send)


def _now() -> float:
    return asyncio.get_running_loop().time()


def _cacheable_route(scope: Scope) -> KnownRoute:
    route = route_table_of(scope).find_cacheable(scope)
    assert route is not None
    return route


def _record(template: str | None, source: Source) -> None:
    """Tell the log and the metrics where the answer is from. The framework has not seen a hit."""
    if (current := request_context.get()) is not None:
        current.route, current.cache = template, source


def _log_refusal(route: KnownRoute, response: CapturedResponse, tags: Sequence[str]) -> None:
    if response.is_problem:
        return
    reason = f"its status is {response.status}"
    if response.status == 200:
        missing = "" if tags else "its service passed no tag to shows()"
        reason = response.obstacle or missing or "one of its headers is not valid"
    logger.error("GET %s is cacheable, but cannot be cached: %s", route.template, reason)


async def _refuse(request: _Request, detail: str) -> None:
    _record(_cacheable_route(request.scope).template, Source.BYPASS)
    refusal = problem_of(request.scope, Unavailable(detail))
    await refusal(request.scope, request.receive, request.send)


def _receive_nothing() -> Receive:
    messages: list[Message] = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> Message:
        if not messages:
            await asyncio.Event().wait()  # a load has no client that could disconnect
        return messages.pop()

    return receive
