"""Server-sent events: a response that sends the events of a feed until its client leaves.

A stream ends with an event `end` when the server shuts down, and when what the client listens to is
deleted. Browsers then reconnect, and send the id of the last event that they have, so they miss
nothing. The stream holds no database session. FastAPI's own class encodes each event for each
client, which costs several times as much (`make bench only=sse`).
"""

import asyncio
import random
from typing import Annotated

from fastapi import Depends, Header, Query
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from app.errors import NotFound
from app.infra.events.feed import Feed
from app.infra.events.hub import EventHub
from app.infra.events.topic import Listener
from app.infra.observability.background import detached
from app.infra.observability.metrics import EVENT_LISTENERS_CUT
from app.infra.observability.request_context import request_context
from app.infra.validation.fields import Position
from app.infra.web.client_address import client_of
from app.infra.web.head_requests import is_head_request
from app.infra.web.server_error import ClientTooSlow

# When a worker is replaced, its clients do not reconnect all at the same moment.
MIN_RECONNECT_MILLISECONDS, MAX_RECONNECT_MILLISECONDS = 1_000, 3_000
HEADERS = {"Content-Type": "text/event-stream; charset=utf-8", "X-Accel-Buffering": "no"}
HEARTBEAT = b":\n\n"
SHUTDOWN = b'event: end\ndata: {"reason":"shutdown"}\n\n'
DELETED = b'event: end\ndata: {"reason":"deleted"}\n\n'


async def last_event_id(
    after: Annotated[
        Position | None,
        Query(description="The last event that the client has. A Last-Event-ID replaces it."),
    ] = None,
    # Without `| None`, because the document would then allow the header to be `null`.
    header: Annotated[
        Position,
        Header(alias="last-event-id", description="Browsers send it when they reconnect."),
    ] = None,  # type: ignore[assignment]
) -> int | None:
    """Return the id of the last event that the client has, if it says so.

    A browser cannot choose the headers of its first request, so there is a query parameter too.
    """
    return after if header is None else header


LastEventId = Annotated[int | None, Depends(last_event_id)]


class EventStream(Response):
    """The events of a feed. `open` creates it."""

    def __init__(
        self, feed: Feed, key: int, *, newest: int, after: int, status_code: int = 200
    ) -> None:
        # The base class would set the length of the body. FastAPI documents the default status. If
        # there were a class variable `media_type`, it would document a text beside the events.
        self.status_code = status_code
        self.background = None
        self.init_headers(HEADERS)
        self._feed, self._key = feed, key
        self._newest, self._after = newest, after

    @classmethod
    async def open(
        cls, session: AsyncSession, feed: Feed, key: int, last: int | None
    ) -> "EventStream":
        """Return the stream of a key, or raise `NotFound`.

        Without the id of a last event, it begins with the next event. An id beyond the newest one
        counts as the newest: no client has an event that does not exist.
        """
        newest = (await feed.newest(session, [key])).get(key)
        if newest is None:
            raise NotFound(feed.missing)
        return cls(feed, key, newest=newest, after=newest if last is None else min(last, newest))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        hub: EventHub = scope["app"].state.event_hub
        client = client_of(scope)
        place = hub.listening(client, self._feed, self._key, newest=self._newest, after=self._after)
        with place as listener:
            if (current := request_context.get()) is not None:
                current.has_place = True
                current.stop_clock()  # the time for which a client listens is not latency
            watching = detached(_watch(receive, listener))
            try:
                async with hub.sending(listener):
                    await self._respond(hub, listener, send)
            except TimeoutError:
                if listener.limit is None or not listener.limit.expired():
                    raise
                raise _cut() from None
            finally:
                watching.cancel()

    async def _respond(self, hub: EventHub, listener: Listener, send: Send) -> None:
        async def send_in_time(message: Message) -> None:
            # The start has a deadline too: the client may not have read an earlier response.
            try:
                async with asyncio.timeout(hub.settings.send_seconds):
                    await send(message)
            except TimeoutError:
                raise _cut() from None
            except OSError:  # some servers raise it when the client has disconnected
                listener.leave()

        start = {"type": "http.response.start", "status": self.status_code}
        await send_in_time({**start, "headers": self.raw_headers})
        if is_head_request():
            await send_in_time({"type": "http.response.body"})
        else:
            await _send_events(hub, listener, send_in_time)


async def _send_events(hub: EventHub, listener: Listener, send: Send) -> None:
    heartbeat_seconds, now = hub.settings.heartbeat_seconds, asyncio.get_running_loop().time

    async def send_body(body: bytes, *, more: bool = True) -> None:
        await send({"type": "http.response.body", "body": body, "more_body": more})

    pause = random.randint(MIN_RECONNECT_MILLISECONDS, MAX_RECONNECT_MILLISECONDS)  # noqa: S311 - jitter
    # An id without data is no event. A client that has had none yet keeps its place by it.
    await send_body(b"retry: %d\nid: %d\n\n" % (pause, listener.position))
    while True:
        found = await hub.next_events(listener, now() + heartbeat_seconds)
        if found:
            await send_body(found[0] if len(found) == 1 else b"".join(found))
            hub.sent += len(found)
        elif hub.has_ended(listener):
            break
        else:
            await send_body(HEARTBEAT)
    if not listener.has_left:
        await send_body(SHUTDOWN if hub.is_ending else DELETED, more=False)


def _cut() -> ClientTooSlow:
    EVENT_LISTENERS_CUT.inc()
    return ClientTooSlow()


async def _watch(receive: Receive, listener: Listener) -> None:
    """Notice at once that the client disconnects, and not only when the next event is sent."""
    while (await receive())["type"] != "http.disconnect":
        pass
    listener.leave()
