"""Limits how many requests a worker runs at a time. Some wait for their turn, the others get 503.

When a worker has more to do than it can finish, refusing at once is better than letting every
client wait until it gives up. Requests that wait are served in the order in which they arrived.
"""

import asyncio
from collections.abc import Awaitable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import Unavailable
from app.infra.observability.metrics import IN_FLIGHT, REFUSED
from app.infra.observability.request_context import request_context
from app.infra.web.exempt_paths import EXEMPT_PATHS
from app.infra.web.problems import problem_of
from app.infra.web.settings import LimitsSettings

WITHOUT_BODY = (204, 304)


class StreamLimitReached(Exception):
    """Raised out of `send`, where FastAPI could not handle an `AppError`."""


class ConcurrencyLimiter:
    """The slots of one process. `running`, `queued` and `streams` are how many are taken."""

    def __init__(self, limits: LimitsSettings) -> None:
        self.running = self.queued = self.streams = 0
        self._limits = limits
        self._slots = asyncio.Semaphore(limits.running)

    async def acquire(self) -> None:
        """Take a slot, or raise `Unavailable`."""
        if self._slots.locked():
            await self._wait()
        else:
            await self._slots.acquire()  # a slot is free, so this does not wait
        self.running += 1

    def release(self) -> None:
        self.running -= 1
        self._slots.release()

    def begin_stream(self) -> None:
        """Count a stream. A stream takes no slot, because it may last for hours."""
        if self.streams >= self._limits.streams:
            REFUSED.labels("streams").inc()
            raise StreamLimitReached
        self.streams += 1

    def end_stream(self) -> None:
        self.streams -= 1

    def measure(self) -> None:
        for state in ("running", "queued", "streams"):
            IN_FLIGHT.labels(state).set(getattr(self, state))

    async def _wait(self) -> None:
        if self.queued >= self._limits.queued:
            raise self._refused()
        self.queued += 1
        try:
            async with asyncio.timeout(self._limits.queue_seconds):
                await self._slots.acquire()
        except TimeoutError:
            raise self._refused() from None
        finally:
            self.queued -= 1

    def _refused(self) -> Unavailable:
        REFUSED.labels("in_flight").inc()
        return Unavailable("This process has more requests than it can answer in time.")


class ConcurrencyLimitMiddleware:
    """Stands inside the response cache: cache hits take no slot; loads do.

    A request holds its slot until its response starts. A response without a length is a stream.
    Event streams are counted by `app/infra/places.py` instead.
    """

    def __init__(self, app: ASGIApp, limiter: ConcurrencyLimiter) -> None:
        self.app = app
        self._limiter = limiter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in EXEMPT_PATHS:
            await self.app(scope, receive, send)
            return
        limiter = self._limiter
        try:
            await limiter.acquire()
        except Unavailable as error:
            await problem_of(scope, error)(scope, receive, send)
            return
        has_slot, is_open_stream = True, False

        def send_and_release_slot(message: Message) -> Awaitable[None]:
            nonlocal has_slot, is_open_stream
            if has_slot:
                has_slot = False
                limiter.release()
                if is_stream(message) and not _has_place():
                    limiter.begin_stream()
                    is_open_stream = True
            return send(message)

        try:
            await self.app(scope, receive, send_and_release_slot)
        except StreamLimitReached:
            refusal = Unavailable("This process has reached its limit of open streams.")
            await problem_of(scope, refusal)(scope, receive, send)
        finally:
            if has_slot:
                limiter.release()
            if is_open_stream:
                limiter.end_stream()


def _has_place() -> bool:
    current = request_context.get()
    return current is not None and current.has_place


def is_stream(start: Message) -> bool:
    """Return whether a response that starts with this message has no length."""
    if start["status"] in WITHOUT_BODY:
        return False
    return all(name != b"content-length" for name, _ in start.get("headers", ()))
