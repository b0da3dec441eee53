"""Ends a request that has not begun its answer in time, with 503.

All requests have the same time, so they are due in the order in which they came: one timer, for the
oldest, is enough for all of them. A cancelled request gives back what it holds.
"""

import asyncio
from asyncio import Task, TimerHandle
from collections.abc import Awaitable
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import Unavailable
from app.infra.observability.metrics import REFUSED
from app.infra.web.problems import problem_of


class _Run:
    """A request that is run, until its answer begins."""

    __slots__ = ("cancellations", "due", "is_late", "task")

    def __init__(self, task: Task[Any] | None, due: float) -> None:
        assert task is not None
        self.task = task
        self.due = due
        self.is_late = False
        self.cancellations = task.cancelling()

    def end(self) -> None:
        self.is_late = True
        self.task.cancel()


class RequestTimeoutMiddleware:
    """Pure ASGI. A stream has begun its answer, and goes on."""

    def __init__(self, app: ASGIApp, seconds: float) -> None:
        self.app = app
        self._seconds = seconds
        self._running: dict[_Run, None] = {}  # in the order in which they are due
        self._timer: TimerHandle | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        run = self._begin()

        def send_in_time(message: Message) -> Awaitable[None]:
            self._running.pop(run, None)
            return send(message)

        try:
            await self.app(scope, receive, send_in_time)
        except asyncio.CancelledError:
            if not run.is_late or run.task.cancelling() > run.cancellations + 1:
                raise  # somebody else ends this task
            REFUSED.labels("time").inc()
            late = Unavailable("The request took too long.")
            await problem_of(scope, late)(scope, receive, send)
        finally:
            self._running.pop(run, None)
            if run.is_late:
                run.task.uncancel()

    def _begin(self) -> _Run:
        loop = asyncio.get_running_loop()
        run = _Run(asyncio.current_task(), loop.time() + self._seconds)
        self._running[run] = None
        if self._timer is None:
            self._timer = loop.call_at(run.due, self._end_late)
        return run

    def _end_late(self) -> None:
        self._timer, loop = None, asyncio.get_running_loop()
        now = loop.time()
        for run in [*self._running]:
            if run.due > now:
                self._timer = loop.call_at(run.due, self._end_late)
                return
            del self._running[run]
            run.end()
