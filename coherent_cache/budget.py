"""The time limits of one read: a deadline for the whole read, and a budget for its cache steps."""

import asyncio
from collections.abc import Awaitable, Coroutine
from functools import partial
from typing import Any, TypeVar

from coherent_cache.breaker import NO_LIMIT_SECONDS
from coherent_cache.errors import CacheBusy
from coherent_cache.overdue import OverdueTimer

READ_SECONDS = 2.0  # shorter than a lease, so that the lease does not expire during its load

T = TypeVar("T")


class Budget:
    """The time that one read may take.

    All cache steps of the read share `cache_seconds`. Only a step that takes longer than
    `slow_seconds` uses up any of it. An answer that has arrived and waits for a busy process to
    read it does not count as slow.
    """

    def __init__(
        self, cache_seconds: float = NO_LIMIT_SECONDS, slow_seconds: float = NO_LIMIT_SECONDS
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.deadline = self._loop.time() + READ_SECONDS
        self.is_cache_slow = False
        self._cache_seconds = cache_seconds
        self._slow_seconds = min(slow_seconds, cache_seconds)

    async def cache_step(self, step: Coroutine[Any, Any, T]) -> T:
        """Await a step. Raises TimeoutError when the time for all cache steps is used up."""
        if self._cache_seconds <= 0:
            step.close()
            raise TimeoutError
        began = self._loop.time()
        async with asyncio.timeout(None) as limit:
            timers: list[OverdueTimer] = []
            timers.append(OverdueTimer(self._slow_seconds, partial(self._note_slow, limit, timers)))
            try:
                return await step
            finally:
                timers.pop().cancel()
                timers.clear()  # a remaining timer would keep the request's objects in a cycle
                if self.is_cache_slow:
                    self._cache_seconds -= self._loop.time() - began

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

    def _note_slow(self, limit: asyncio.Timeout, timers: list[OverdueTimer]) -> None:
        self.is_cache_slow = True
        left = self._cache_seconds - self._slow_seconds
        timers.append(OverdueTimer(left, lambda: limit.reschedule(self._loop.time())))
