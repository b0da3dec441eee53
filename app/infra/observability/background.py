"""Tasks and threads that run for as long as the process does, beside its requests.

A task or thread that ends by itself is started again. The pauses before that grow while it keeps
failing. Each failure is logged and counted, and /readyz names the tasks that fail.
"""

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from contextvars import Context
from typing import Any, TypeVar

from app.infra.observability.metrics import BACKGROUND_RESTARTS

logger = logging.getLogger(__name__)

CANCEL_AGAIN_SECONDS = 0.1
MIN_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 0.1, 3.0
# A task is healthy again when it has not failed for this long.
HEALTHY_SECONDS = 10.0

T = TypeVar("T")
Work = Callable[[], Coroutine[Any, Any, None]]

_failed_at: dict[str, float] = {}


def failing() -> list[str]:
    """Return the names of the tasks and threads that failed within the last ten seconds."""
    now = time.monotonic()
    return sorted(name for name, at in _failed_at.items() if now - at < HEALTHY_SECONDS)


def detached(coroutine: Coroutine[Any, Any, T], name: str | None = None) -> asyncio.Task[T]:
    """Create a task with an empty context, for work that may outlive the request that starts it.

    `asyncio.create_task` copies the context of its caller. The work would then be counted as part
    of that request, for example the database connection that it holds.
    """
    return asyncio.create_task(coroutine, name=name, context=Context())


@asynccontextmanager
async def in_background(work: Work, name: str) -> AsyncIterator[None]:
    """Run `work` in a task until the block is left, and start it again whenever it ends by itself.

    The block is left only when the task has ended. The task is cancelled repeatedly, because
    some libraries swallow a cancellation (as `asyncio.wait_for` does before Python 3.12). Otherwise
    the shutdown would wait for ever.
    """
    leaving = asyncio.Event()
    task = detached(_supervise(work, _Restarts(name), leaving), name)
    try:
        yield
    finally:
        leaving.set()
        while not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=CANCEL_AGAIN_SECONDS)
        _failed_at.pop(name, None)


def in_thread(work: Callable[[], None], name: str, stopped: threading.Event) -> threading.Thread:
    """Run `work` in a daemon thread, and start it again if it fails before `stopped` is set.

    Raises RuntimeError if the system has no room for another thread.
    """

    def supervise() -> None:
        restarts = _Restarts(name)
        while True:
            try:
                work()
            except Exception as error:
                pause = restarts.record(error)
            else:
                return
            if stopped.wait(pause):
                return

    thread = threading.Thread(target=supervise, name=name, daemon=True)
    thread.start()
    return thread


class _Restarts:
    """The failures of one task, and the pause before it starts again."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._counter = BACKGROUND_RESTARTS.labels(name)
        self._pause = MIN_PAUSE_SECONDS

    def record(self, error: BaseException | None) -> float:
        """Log and count that the task ended by itself. Return the pause in seconds."""
        now = time.monotonic()
        if now - _failed_at.get(self._name, float("-inf")) > HEALTHY_SECONDS:
            self._pause = MIN_PAUSE_SECONDS
        pause, self._pause = self._pause, min(2 * self._pause, MAX_PAUSE_SECONDS)
        _failed_at[self._name] = now
        self._counter.inc()
        logger.error(
            "The background task %s ended by itself. It starts again in %.1f s.",
            self._name,
            pause,
            exc_info=error,
        )
        return pause


async def _supervise(work: Work, restarts: _Restarts, leaving: asyncio.Event) -> None:
    task = asyncio.current_task()
    assert task is not None
    while not leaving.is_set():
        failure: BaseException | None = None
        try:
            await work()
        except asyncio.CancelledError as error:
            if task.cancelling():
                raise
            failure = error  # a future that the work awaited was cancelled, not the task itself
        except Exception as error:
            failure = error
        if not leaving.is_set():
            await asyncio.sleep(restarts.record(failure))
