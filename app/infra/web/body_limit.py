"""Reads the whole request body, up to a limit, before anything inside runs.

A client that sends slowly therefore holds only its connection: no slot of the concurrency limit and
no database connection. The server limits how long it may take.

A route that declares more than a MiB takes uploads. What their bodies have beyond that comes out of
a budget of the process, so that uploads cannot use up its memory.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import InvalidRequest, Unavailable
from app.infra.observability.metrics import REFUSED
from app.infra.web.body_shape import check_body_shape
from app.infra.web.known_route import KnownRoute
from app.infra.web.problems import code_of, problem, problem_of
from app.infra.web.response_headers import headers_before_body
from app.infra.web.routing import route_table_of

UPLOAD_BYTES = 1024 * 1024
READ_AT_ONCE, TURN_SECONDS = 4, 1.0
TOO_MANY_UPLOADS = "Too many files are being uploaded. Try again in a moment."


class TooLarge(Exception):
    def __init__(self, limit_bytes: int) -> None:
        super().__init__()
        self.limit_bytes = limit_bytes


class BodyLimitMiddleware:
    """Pure ASGI. A declared length above the limit is refused before the body is read.

    The limit is the `max_body_size` of the route. If that is a MiB or less, it is also at most
    `limit_bytes`. All uploads together may have `upload_bytes` beyond that, and `uploads` of them
    run at the same time. Others get 503. No body that a route parses may contain more than
    `most_values` values. The bytes of a file may be anything, whatever its Content-Type says.
    """

    def __init__(
        self, app: ASGIApp, limit_bytes: int, most_values: int, uploads: int, upload_bytes: int
    ) -> None:
        self.app = app
        self._limit_bytes = limit_bytes
        self._most_values = most_values
        self._budget = _Budget(uploads, upload_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        length = _declared_length(scope) if scope["type"] == "http" else 0
        if length == 0:
            await self.app(scope, receive, send)
            return
        route, found = route_table_of(scope).find(scope)
        limit_bytes = self._limit_of(route)
        upload = _Upload(self._budget)
        try:
            if length is not None and length > limit_bytes:
                raise TooLarge(limit_bytes)
            if limit_bytes > UPLOAD_BYTES:
                async with upload.turn():
                    body = await self._read(receive, limit_bytes, upload)
                upload.begin()
            else:
                body = await self._read(receive, limit_bytes, upload)
            if route is None or route.parses_body:
                check_body_shape(scope, body, self._most_values)
        except TooLarge as too_large:
            scope.update(found)  # the problem depends on the endpoint
            await self._refuse(too_large, scope, receive, send)
        except Unavailable as busy:
            REFUSED.labels("uploads").inc()
            response = problem_of(scope, busy)
            response.headers.update(headers_before_body(scope))
            await response(scope, receive, send)
        except InvalidRequest as invalid:
            REFUSED.labels("body_shape").inc()
            scope.update(found)
            await problem_of(scope, invalid)(scope, receive, send)
        else:
            await self.app(scope, _replay(body, receive), send)
        finally:
            upload.end()

    def _limit_of(self, route: KnownRoute | None) -> int:
        if route is None or route.max_body_bytes is None:
            return self._limit_bytes
        takes_uploads = route.max_body_bytes > UPLOAD_BYTES
        return (
            route.max_body_bytes if takes_uploads else min(route.max_body_bytes, self._limit_bytes)
        )

    async def _read(self, receive: Receive, limit_bytes: int, upload: "_Upload") -> bytes:
        parts, size, more = [], 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > limit_bytes:
                raise TooLarge(limit_bytes)
            upload.grow_to(size)
            more = message.get("more_body", False)
        return b"".join(parts)

    async def _refuse(
        self, too_large: TooLarge, scope: Scope, receive: Receive, send: Send
    ) -> None:
        REFUSED.labels("body_size").inc()
        headers = headers_before_body(scope)
        detail = f"A body may have {too_large.limit_bytes} bytes."
        await problem(scope, 413, code_of(413), detail, headers=headers)(scope, receive, send)


@dataclass(slots=True)
class _Budget:
    """How many more uploads of this process may run, and the bytes that they may still take."""

    places: int
    spare_bytes: int
    turns: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(READ_AT_ONCE))


class _Upload:
    """What one body has taken from the budget, until its request has ended."""

    def __init__(self, budget: _Budget) -> None:
        self._budget = budget
        self._taken = 0
        self._places = 0

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a turn to be read, or raise `Unavailable`.

        Otherwise many bodies would be read only to be refused. A client that sends slowly costs
        little, so others need not wait for it: its turn ends after `TURN_SECONDS`, and its body is
        read on.
        """
        turns = self._budget.turns
        try:
            async with asyncio.timeout(TURN_SECONDS):
                await turns.acquire()
        except TimeoutError:
            raise Unavailable(TOO_MANY_UPLOADS) from None
        with ExitStack() as end:
            end.callback(turns.release)
            timer = asyncio.get_running_loop().call_later(TURN_SECONDS, end.close)
            try:
                if self._budget.places <= 0:
                    raise Unavailable(TOO_MANY_UPLOADS)
                yield
            finally:
                timer.cancel()

    def grow_to(self, size: int) -> None:
        """Take what the body has beyond the size of an ordinary one, or raise `Unavailable`."""
        more = size - UPLOAD_BYTES - self._taken
        if more <= 0:
            return
        if more > self._budget.spare_bytes:
            raise Unavailable(TOO_MANY_UPLOADS)
        self._taken += more
        self._budget.spare_bytes -= more

    def begin(self) -> None:
        """Take a place, or raise `Unavailable`. A client that sends slowly has none meanwhile."""
        if self._budget.places <= 0:
            raise Unavailable(TOO_MANY_UPLOADS)
        self._budget.places -= 1
        self._places = 1

    def end(self) -> None:
        self._budget.spare_bytes += self._taken
        self._budget.places += self._places


def _declared_length(scope: Scope) -> int | None:
    """Return the length of the body: 0 without a body, and None if the length is unknown."""
    length: int | None = 0
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value)
        if name == b"transfer-encoding":
            length = None
    return length


def _replay(body: bytes, receive: Receive) -> Receive:
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_body_first() -> Message:
        return messages.pop() if messages else await receive()

    return receive_body_first
