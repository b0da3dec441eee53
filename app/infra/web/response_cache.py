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

from app.errors import AppError
from app.infra.cache.entry import Entry
from app.infra.cache.read_through import Answer, Source
from app.infra.cache.tags import SHOWN
from app.infra.resources import Resources
from app.infra.web import conditional
from app.infra.web.conditional import Asked
from app.infra.web.problems import problem_of
from app.infra.web.public import find_public, policy_of, query_parameters
from app.infra.web.representation import Captured, Representation, read, write_down
from app.infra.web.request_id import request_id

logger = logging.getLogger(__name__)

HARMLESS_PATH = re.compile(r"[A-Za-z0-9/_.~-]*")
HARMLESS_VALUE = re.compile(r"[A-Za-z0-9_.~-]{1,64}")
# Of a request, all that its answer may depend on.
KEPT = ("type", "asgi", "http_version", "method", "path", "root_path", "server", "app", "state")
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
        near = scope["app"].state.route_table.near(scope)
        if not near.has_public:
            await self.app(scope, receive, send)
            return
        asked = conditional.asked(scope)
        key = f"{scope['path']}?{scope['query_string'].decode('latin-1')}"
        if not (asked.skips_memory or asked.bypasses):
            entry = scope["app"].state.resources.reader.remembered(key)
            if entry is not None:
                await _send(Answer(entry, Source.MEMORY), asked, send)
                return
        route = find_public(near.router.routes, scope)
        if route is None:
            await self.app(scope, receive, send)
            return
        try:
            await self._answer(route, scope, receive, send, asked)
        except AppError as error:
            await problem_of(scope, error)(scope, receive, send)

    async def _answer(
        self, route: APIRoute, scope: Scope, receive: Receive, send: Send, asked: Asked
    ) -> None:
        held: Resources = scope["app"].state.resources
        query = None if asked.bypasses or held.cache is None else canonical_query(route, scope)
        if query is None:
            await self._go_past(route, scope, receive, send, asked)
            return
        load = partial(self._load, route, scope, query)
        key = f"{scope['path']}?{query}"
        try:
            answer = await held.reader.read(key, load, skip_memory=asked.skips_memory)
        except NotStored as found:
            if not found.response.is_problem:
                await self._go_past(route, scope, receive, send, asked)
                return
            await _send_captured(found.response, Source.LOAD, send)
        else:
            await _send(answer, asked, send)

    async def _load(self, route: APIRoute, asking: Scope, query: str) -> Entry:
        """Run the request that asks for this entry, as nobody in particular."""
        shown: set[str] = set()
        scope = {name: asking[name] for name in KEPT if name in asking}
        scope |= {"scheme": "http", "headers": [], "query_string": query.encode(), SHOWN: shown}
        response = Captured()
        await self.app(scope, _receive_nothing(), response.receive)
        if not response.may_be_stored:
            raise NotStored(response)
        if not shown:
            logger.error("%s names nothing that it shows: it is not cached", route.name)
            raise NotStored(response)
        settings = asking["app"].state.resources.settings.cache
        ttl = settings.ttl_seconds if response.status == 200 else settings.missing_ttl_seconds
        value = await write_down(response, policy_of(route).cache_control)
        return Entry(f"{asking['path']}?{query}", tuple(sorted(shown)), value, ttl)

    async def _go_past(
        self, route: APIRoute, scope: Scope, receive: Receive, send: Send, asked: Asked
    ) -> None:
        """Answer from the route itself, with the validators and the form that a hit would have."""
        response = Captured()
        await self.app(scope, receive, response.receive)
        if response.status != 200 or not response.may_be_stored:
            await _send_captured(response, Source.PAST, send)
            return
        control = policy_of(route).cache_control
        value = await write_down(response, control, compress=asked.accepts_gzip)
        await _send(Answer(Entry("", (), value), Source.PAST), asked, send)


async def _send(answer: Answer, asked: Asked, send: Send) -> None:
    entry, source = answer
    shown: Representation | None = entry.view
    if shown is None:
        shown = entry.view = read(entry.value)
    if shown.status != 200:
        response = Captured(shown.status, shown.plain.headers, shown.plain.body)
        await _send_captured(response, source, send)
        return
    variant = shown.compressed if asked.accepts_gzip and shown.compressed else shown.plain
    status, headers, body = 200, variant.headers, variant.body
    if asked.none_match and asked.has(variant.etag):
        status, headers, body = 304, variant.headers_if_not_modified, b""
    # A list of its own: whoever stands outside adds to it.
    headers = [*headers, X_CACHE[source]]
    if source in (Source.MEMORY, Source.VALKEY):
        headers.append((b"age", b"%d" % max(0, time.time() - shown.stored_at)))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _send_captured(response: Captured, source: Source, send: Send) -> None:
    """Send what is sent as it is, but for the request id in a problem: that is each one's own."""
    body, headers = response.body, response.headers
    if response.is_problem:
        body = orjson.dumps({**orjson.loads(body), "request_id": request_id.get()})
    length = (b"content-length", b"%d" % len(body))
    headers = [header for header in headers if header[0] != b"content-length"]
    headers = [*headers, length, X_CACHE[source]]
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _receive_nothing() -> Receive:
    messages: list[Message] = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> Message:
        if not messages:
            await asyncio.Event().wait()  # nobody leaves: the load is everybody's
        return messages.pop()

    return receive


def canonical_query(route: APIRoute, scope: Scope) -> str | None:
    """Return the one spelling under which an answer is kept, or None if it is not kept.

    Every parameter is known and given once, every value is written in one way.
    """
    if not HARMLESS_PATH.fullmatch(scope["path"]):
        return None
    query = scope["query_string"].decode("latin-1")
    if not query:
        return ""
    pairs = sorted(query.split("&"))
    values = dict(pair.partition("=")[::2] for pair in pairs)
    known = set(query_parameters(route.dependant))
    if len(values) < len(pairs) or not values.keys() <= known:
        return None
    harmless = all(map(HARMLESS_VALUE.fullmatch, values.values()))
    return "&".join(pairs) if harmless else None
