"""Threads for functions that block: the shared ones, and pools with a bounded queue."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

from anyio.to_thread import current_default_thread_limiter

from app.errors import Unavailable
from app.infra.observability.metrics import THREADS

P = ParamSpec("P")
T = TypeVar("T")


def measure_default_threads() -> None:
    """Set the gauges of the threads that `anyio.to_thread.run_sync` and `def` endpoints use."""
    found = current_default_thread_limiter().statistics()
    _set_gauges("default", found.borrowed_tokens, found.tasks_waiting)


class BoundedThreads:
    """Runs blocking functions in a few threads of their own, so that others do not wait for them.

    At most `threads` functions run, and `queue` calls wait. A call raises `Unavailable` with the
    sentence `busy` when the queue is full, or when no thread has started its function within
    `queue_seconds`. A function that has started runs to its end, and keeps its place until then,
    even if its caller is cancelled.
    """

    def __init__(
        self,
        name: str,
        *,
        threads: int,
        queue: int,
        queue_seconds: float,
        busy: str,
        initializer: Callable[[], None] | None = None,
    ) -> None:
        self._name = name
        self._executor = ThreadPoolExecutor(threads, name, initializer)
        self._places = threads + queue
        self._queue_seconds = queue_seconds
        self._busy = busy
        self._calls = set[Future[Any]]()

    async def run(self, function: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
        """Return what `function` returns."""
        if len(self._calls) >= self._places:
            raise Unavailable(self._busy)
        call = self._executor.submit(function, *arguments, **options)
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)
        outcome = asyncio.wrap_future(call)
        try:
            await asyncio.wait((outcome,), timeout=self._queue_seconds)
        except asyncio.CancelledError:
            call.cancel()
            outcome.add_done_callback(_look_at)
            raise
        if call.cancel():  # no thread has started it
            raise Unavailable(self._busy)
        return await outcome

    def measure(self) -> None:
        """Set the gauges. Threads end calls meanwhile, so this looks at a copy."""
        running = [call.running() for call in tuple(self._calls)]
        _set_gauges(self._name, running.count(True), running.count(False))

    def close(self) -> None:
        """Cancel the calls that wait. Those that run end by themselves."""
        self._executor.shutdown(wait=False, cancel_futures=True)


def _look_at(outcome: asyncio.Future[Any]) -> None:
    """Take the error of a call whose caller has gone. Otherwise asyncio logs it as lost."""
    if not outcome.cancelled():
        outcome.exception()


def _set_gauges(pool: str, busy: int, waiting: int) -> None:
    THREADS.labels(pool, "busy").set(busy)
    THREADS.labels(pool, "waiting").set(waiting)
