"""The time limits of one read: a deadline for the whole read, and a budget for its cache steps."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, TypeVar

from coherent_cache.config import CacheConfig

READ_SECONDS = 2.0  # shorter than a lease, so that the lease does not expire during its load
# So many iterations of the event loop read an answer that has arrived, and wake the waiting task.
LOOP_ITERATIONS = 8

T = TypeVar("T")


class CacheBusy(Exception):
    """A read was not answered in time. Respond with 503 and Retry-After. `str()` says why."""


class OverdueTimer:
    """Calls `callback` when `seconds` have passed and the answer has still not arrived.

    A busy process reads its sockets late. When the time is up, the timer therefore lets the event
    loop run a few iterations first. If the answer has arrived, one of these iterations reads it,
    and the waiting task calls `cancel`. `asyncio.timeout` cannot tell the two cases apart.
    """

    def __init__(self, seconds: float, callback: Callable[[], object]) -> None:
        self._loop = asyncio.get_running_loop()
        self._callback = callback
        self._handle: asyncio.Handle = self._loop.call_later(seconds, self._wait, LOOP_ITERATIONS)

    def cancel(self) -> None:
        self._handle.cancel()

    def _wait(self, iterations: int) -> None:
        if iterations:
            self._handle = self._loop.call_soon(self._wait, iterations - 1)
        else:
            self._callback()


class Budget:
    """The time that one read may take.

    All cache steps of the read share `timeout_seconds`. Only a step that takes longer than
    `slow_seconds` uses up any of it.
    """

    def __init__(self, config: CacheConfig) -> None:
        self._loop = asyncio.get_running_loop()
        self.deadline = self._loop.time() + READ_SECONDS
        self.is_cache_slow = False
        self._cache_seconds = config.timeout_seconds
        self._slow_seconds = min(config.slow_seconds, config.timeout_seconds)

    async def cache_step(self, step: Coroutine[Any, Any, T]) -> T:
        """Await a step. Raises TimeoutError when the time for all cache steps is used up."""
        if self._cache_seconds <= 0:
            step.close()
            raise TimeoutError
        began = self._loop.time()
        async with asyncio.timeout(None) as limit:
            self._timer = OverdueTimer(self._slow_seconds, partial(self._note_slow, limit))
            try:
                return await step
            finally:
                self._timer.cancel()
                del self._timer  # it would form a cycle with this budget
                if self.is_cache_slow:
                    self._cache_seconds -= self._loop.time() - began

    def _note_slow(self, limit: asyncio.Timeout) -> None:
        self.is_cache_slow = True
        left = self._cache_seconds - self._slow_seconds
        self._timer = OverdueTimer(left, partial(limit.reschedule, 0))

    async def until_deadline(self, step: Awaitable[T]) -> T:
        """Await a load, which may serve other reads too. Raises `CacheBusy` at the deadline."""
        try:
            async with asyncio.timeout_at(self.deadline) as limit:
                return await step
        except TimeoutError:
            if not limit.expired():
                raise
            raise CacheBusy("The database took too long.") from None
        finally:
            del step, limit  # they would form a cycle: task, exception, traceback, this frame, task
