"""Answers 503 when a response has not started within LIMITS_REQUEST_SECONDS.

The request is cancelled, so that it gives back its connection and its locks.
"""

import asyncio
from collections.abc import Awaitable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import Unavailable
from app.infra.observability.metrics import REFUSED
from app.infra.observability.request_context import request_context
from app.infra.web.problems import problem_of


class RequestTimeoutMiddleware:
    """The time limit ends when the response starts: a stream may last longer."""

    def __init__(self, app: ASGIApp, seconds: float) -> None:
        self.app = app
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        has_started, current = False, request_context.get()

        def send_and_stop_timer(message: Message) -> Awaitable[None]:
            nonlocal has_started
            if not has_started:
                has_started = True
                if not timeout.expired():
                    timeout.reschedule(None)
                if current is not None:
                    current.deadline = None
            return send(message)

        try:
            async with asyncio.timeout(self._seconds) as timeout:
                if current is not None:
                    current.deadline = timeout.when()
                await self.app(scope, receive, send_and_stop_timer)
        except TimeoutError:
            if has_started or not timeout.expired():
                raise
            REFUSED.labels("time").inc()
            late = Unavailable("The request took too long.")
            await problem_of(scope, late)(scope, receive, send)
