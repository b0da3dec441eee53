"""Runs as many requests as there are places, and refuses the others: see `app/infra/in_flight.py`.

A request has its place until its answer begins. One whose length is not known then is a stream.
"""

from collections.abc import Awaitable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import Unavailable
from app.infra.in_flight import InFlight
from app.infra.web.problems import problem_of
from app.infra.web.unlimited import UNLIMITED

WITHOUT_BODY = (204, 304)


class StreamRefused(Exception):
    """It has to end before it has begun. Nobody but this layer knows what to do about it."""

    def __init__(self, refusal: Unavailable) -> None:
        super().__init__()
        self.refusal = refusal


class InFlightMiddleware:
    """Pure ASGI, inside of the response cache: a hit needs no place, and its load has one."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        held = getattr(scope["app"].state, "resources", None)
        if scope["type"] != "http" or scope["path"] in UNLIMITED or held is None:
            await self.app(scope, receive, send)
            return
        places: InFlight = held.in_flight
        try:
            await places.enter()
        except Unavailable as refusal:
            await problem_of(scope, refusal)(scope, receive, send)
            return
        request = _Request(places, send)
        try:
            await self.app(scope, receive, request.send)
        except StreamRefused as refused:
            await problem_of(scope, refused.refusal)(scope, receive, send)
        finally:
            request.end()


class _Request:
    """Has a place, then perhaps a stream's, then none."""

    __slots__ = ("_has_place", "_is_stream", "_places", "_send")

    def __init__(self, places: InFlight, send: Send) -> None:
        self._places = places
        self._send = send
        self._has_place = True
        self._is_stream = False

    def send(self, message: Message) -> Awaitable[None]:
        if self._has_place:
            self._leave()
            if is_stream(message):
                self._become_stream()
        return self._send(message)

    def end(self) -> None:
        if self._has_place:
            self._leave()
        if self._is_stream:
            self._places.end_stream()

    def _leave(self) -> None:
        self._has_place = False
        self._places.leave()

    def _become_stream(self) -> None:
        try:
            self._places.begin_stream()
        except Unavailable as refusal:
            raise StreamRefused(refusal) from None
        self._is_stream = True


def is_stream(start: Message) -> bool:
    """Whether an answer that begins so has no length."""
    if start["status"] in WITHOUT_BODY:
        return False
    return all(name != b"content-length" for name, _ in start.get("headers", ()))
