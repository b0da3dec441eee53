"""How long a read may take: until one deadline in all, and a part of that for its cache steps."""

import asyncio
from collections.abc import Awaitable, Coroutine
from functools import partial
from typing import Any, TypeVar

from app.errors import Unavailable
from app.infra.cache.breaker import NEVER
from app.infra.cache.overdue import Overdue

READ_SECONDS = 2.0  # below the life of a lease: it does not end under its load

T = TypeVar("T")


class Budget:
    """The time of one read.

    The cache steps share `cache_seconds`. Only a step that takes longer than `slow_seconds` uses
    any: the time for which a busy process leaves an answer unread is not the cache's fault.
    """

    def __init__(self, cache_seconds: float = NEVER, slow_seconds: float = NEVER) -> None:
        self._loop = asyncio.get_running_loop()
        self.deadline = self._loop.time() + READ_SECONDS
        self.is_cache_slow = False
        self._cache_seconds = cache_seconds
        self._slow_seconds = min(slow_seconds, cache_seconds)

    async def cache_step(self, step: Coroutine[Any, Any, T]) -> T:
        """Wait for a step; raise TimeoutError when the time for all cache steps is used up."""
        if self._cache_seconds <= 0:
            step.close()
            raise TimeoutError
        began = self._loop.time()
        async with asyncio.timeout(None) as limit:
            timers: list[Overdue] = []
            timers.append(Overdue(self._slow_seconds, partial(self._note_slow, limit, timers)))
            try:
                return await step
            finally:
                timers.pop().cancel()
                timers.clear()  # a timer that is left would keep the request's objects in a cycle
                if self.is_cache_slow:
                    self._cache_seconds -= self._loop.time() - began

    async def until_deadline(self, step: Awaitable[T]) -> T:
        """Wait for a load, one's own or another's; it is `Unavailable` when it takes too long."""
        try:
            async with asyncio.timeout_at(self.deadline) as limit:
                return await step
        except TimeoutError:
            if not limit.expired():
                raise
            raise Unavailable("The database took too long.") from None
        finally:
            del step, limit  # a traceback keeps this frame, and the task that they lead to has it

    def _note_slow(self, limit: asyncio.Timeout, timers: list[Overdue]) -> None:
        self.is_cache_slow = True
        left = self._cache_seconds - self._slow_seconds
        timers.append(Overdue(left, lambda: limit.reschedule(self._loop.time())))
