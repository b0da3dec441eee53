"""Answers public GET routes from the cache, before routing.

A load is a request of its own: it has the path and the canonical query, and nothing else of whoever
asked first, so that no header of theirs can get into what others are sent. What may not be stored
(RFC 9111, §3) is not shared either.
"""

import asyncio
import logging
import re
import time
from functools import partial

import orjson
from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import AppError, Unavailable
from app.infra.cache.settings import CacheSettings
from app.infra.observability.request_context import RequestContext, request_context, request_id
from app.infra.web import conditional_requests
from app.infra.web.cacheable import find_public, policy_of
from app.infra.web.conditional_requests import Asked
from app.infra.web.problems import problem_of
from app.infra.web.query_parameters import query_parameters
from app.infra.web.stored_response import Captured, Representation, read, write_down
from coherent_cache import READ_SECONDS, SHOWN, CacheBusy, Entry, NoCache, Reader, Source

logger = logging.getLogger(__name__)

HARMLESS_PATH = re.compile(r"[A-Za-z0-9/_.~-]*")
HARMLESS_VALUE = re.compile(r"[A-Za-z0-9_.~-]{1,64}")
# Of a request, all that its answer may depend on.
KEPT = ("type", "asgi", "http_version", "method", "path", "root_path", "server", "app")
X_CACHE = {source: (b"x-cache", source.value.encode()) for source in Source}


class NotStored(Exception):
    """A load gave what may not be stored."""

    def __init__(self, response: Captured) -> None:
        super().__init__()
        self.response = response


class ResponseCacheMiddleware:
    """Pure ASGI. What is in this process's memory is sent before anything else is looked at."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "GET":
            await self.app(scope, receive, send)
            return
        asked = conditional_requests.asked(scope)
        reader = _reader_of(scope)
        if reader is not None and not asked.bypasses:
            key = f"{scope['path']}?{scope['query_string'].decode('latin-1')}"
            if not asked.skips_memory and (entry := reader.get_from_memory(key)) is not None:
                await _send(entry, Source.MEMORY, asked, send)
                return
            if reader.has_copy(key):  # so it is the key of a public route's answer
                await self._answer(key, scope, receive, send, asked)
                return
        await self._look_further(scope, receive, send, asked)

    async def _look_further(self, scope: Scope, receive: Receive, send: Send, asked: Asked) -> None:
        route = _public_route(scope)
        if route is None:
            await self.app(scope, receive, send)
            return
        is_off = isinstance(_reader_of(scope), NoCache)
        key = None if asked.bypasses or is_off else canonical_key(route, scope)
        if key is None:
            await self._go_past(scope, receive, send, asked, _now())
        else:
            await self._answer(key, scope, receive, send, asked)

    async def _answer(
        self, key: str, scope: Scope, receive: Receive, send: Send, asked: Asked
    ) -> None:
        reader = _reader_of(scope)
        assert reader is not None
        load = partial(self._load, key, scope, request_context.get())
        began = _now()
        try:
            answer = await reader.read(key, load, skip_memory=asked.skips_memory)
        except NotStored as found:
            found.__traceback__ = None  # its frames hold the tasks that hold it: a cycle
            if found.response.is_problem:
                _note(scope, Source.BYPASS)
                await _send_captured(found.response, Source.BYPASS, send)
            else:
                await self._go_past(scope, receive, send, asked, began)
        except CacheBusy as busy:
            await _refuse(Unavailable(str(busy)), scope, receive, send)
        except AppError as error:
            await _refuse(error, scope, receive, send)
        else:
            await _send(answer.entry, answer.source, asked, send)

    async def _load(self, key: str, asking: Scope, first: RequestContext | None) -> Entry:
        """Run the request that asks for this entry, as nobody in particular."""
        shown: set[str] = set()
        query = key.partition("?")[2].encode()
        scope = {name: asking[name] for name in KEPT if name in asking}
        scope |= {"scheme": "http", "headers": [], "query_string": query, SHOWN: shown}
        response = Captured()
        # Who asked first has the statements on their account, and may leave before they are done.
        request_context.set(own := first and first.child())
        try:
            await self.app(scope, _receive_nothing(), response.receive)
        finally:
            if first is not None and own is not None:
                first.merge(own)
        if not response.may_be_stored or not shown:
            if response.status == 200:
                logger.error(
                    "GET %s is public and cannot be cached: %s",
                    _declared(asking)[0],
                    response.obstacle or "it names nothing that it shows",
                )
            raise NotStored(response)
        settings = asking["app"].state.settings[CacheSettings]
        ttl = settings.ttl_seconds if response.status == 200 else settings.missing_ttl_seconds
        value = await write_down(response, *_declared(asking))
        return Entry(key, tuple(sorted(shown)), value, ttl)

    async def _go_past(
        self, scope: Scope, receive: Receive, send: Send, asked: Asked, began: float
    ) -> None:
        """Answer from the route itself, with the validators and the form that a hit would have."""
        response = Captured()
        try:
            async with asyncio.timeout_at(began + READ_SECONDS) as limit:
                await self.app(scope, receive, response.receive)
        except TimeoutError:
            if not limit.expired():
                raise
            too_long = Unavailable("The database took too long.")
            await _refuse(too_long, scope, receive, send)
            return
        if response.status != 200 or not response.may_be_stored:
            await _send_captured(response, Source.BYPASS, send)
            return
        value = await write_down(response, *_declared(scope), compress=asked.accepts_gzip)
        await _send(Entry("", (), value), Source.BYPASS, asked, send)


def _reader_of(scope: Scope) -> Reader | NoCache | None:
    """Return what reads the cache, or None before the lifespan has begun."""
    reader: Reader | NoCache | None = getattr(scope["app"].state, "cache_reader", None)
    return reader


def _now() -> float:
    return asyncio.get_running_loop().time()


def _note(scope: Scope, source: Source) -> None:
    """Tell who observes what was asked for: no route has been looked for in this scope."""
    if (current := request_context.get()) is not None:
        current.route, current.cache = _declared(scope)[0], source


async def _refuse(error: AppError, scope: Scope, receive: Receive, send: Send) -> None:
    _note(scope, Source.BYPASS)
    await problem_of(scope, error)(scope, receive, send)


def _public_route(scope: Scope) -> APIRoute | None:
    near = scope["app"].state.route_table.near(scope)
    return find_public(near.router.routes, scope) if near.has_public else None


def _declared(scope: Scope) -> tuple[str, str]:
    """Return the template of a public route, and how its answer may be kept."""
    route = _public_route(scope)
    assert route is not None
    return route.path_format, policy_of(route).cache_control


async def _send(entry: Entry, source: Source, asked: Asked, send: Send) -> None:
    shown: Representation | None = entry.view
    if shown is None:
        shown = entry.view = read(entry.value)
    if (current := request_context.get()) is not None:
        current.route, current.cache = shown.route, source
    if shown.status != 200:
        response = Captured(shown.status, shown.plain.headers, shown.plain.body, is_whole=True)
        await _send_captured(response, source, send)
        return
    variant = shown.compressed if asked.accepts_gzip and shown.compressed else shown.plain
    status, headers, body = 200, variant.headers, variant.body
    if asked.none_match and asked.has(variant.etag):
        status, headers, body = 304, variant.headers_if_not_modified, b""
    # A list of its own: whoever stands outside adds to it.
    headers = [*headers, X_CACHE[source]]
    if source is Source.VALKEY:  # since it was validated: RFC 9111, §5.1
        headers.append((b"age", b"0"))
    elif source is Source.MEMORY:
        headers.append((b"age", b"%d" % (time.monotonic() - entry.validated_at)))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _send_captured(response: Captured, source: Source, send: Send) -> None:
    """Send what is sent as it is, but for the request id in a problem: that is each one's own."""
    body, headers = response.body, response.headers
    if response.is_problem:
        body = orjson.dumps({**orjson.loads(body), "request_id": request_id()})
        headers = [header for header in headers if header[0] != b"content-length"]
        headers.append((b"content-length", b"%d" % len(body)))
    headers = [*headers, X_CACHE[source]]
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    more = not response.is_whole
    await send({"type": "http.response.body", "body": body, "more_body": more})


def _receive_nothing() -> Receive:
    messages: list[Message] = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> Message:
        if not messages:
            await asyncio.Event().wait()  # nobody leaves: the load is everybody's
        return messages.pop()

    return receive


def canonical_key(route: APIRoute, scope: Scope) -> str | None:
    """Return the one key under which an answer is kept, or None if it is not kept.

    Every parameter is known and given once, every value is written in one way.
    """
    path, query = scope["path"], scope["query_string"].decode("latin-1")
    if not HARMLESS_PATH.fullmatch(path):
        return None
    pairs = sorted(query.split("&")) if query else []
    values = dict(pair.partition("=")[::2] for pair in pairs)
    if (
        len(values) < len(pairs)
        or not values.keys() <= dict(query_parameters(route.dependant)).keys()
    ):
        return None
    if not all(map(HARMLESS_VALUE.fullmatch, values.values())):
        return None
    return f"{path}?{'&'.join(pairs)}"
