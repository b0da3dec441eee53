"""A connection pool that serves its callers in the order in which they came.

SQLAlchemy's own asyncio pool wakes a waiter and lets a newcomer overtake it, so that under load
some requests wait for seconds while others never wait at all. Here a FIFO gate stands before the
checkout, and whoever waits longer than the pool's timeout is refused with `PoolExhausted`.
"""

import asyncio
import time
from typing import Any

from sqlalchemy import AsyncAdaptedQueuePool
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.util import await_only

from app.errors import Unavailable
from app.infra.observability.metrics import (
    POOL_IN_USE,
    POOL_REFUSED,
    POOL_SIZE,
    POOL_WAIT,
    POOL_WAITING,
    exact,
)
from app.infra.observability.request_context import request_context


class PoolExhausted(Unavailable):
    """Nobody gave a connection back in time."""


class FifoPool(AsyncAdaptedQueuePool):
    """`AsyncAdaptedQueuePool` behind an `asyncio.Semaphore` of its full size."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.waiting = 0
        self._gate = asyncio.Semaphore(self.size() + max(0, self._max_overflow))

    def _do_get(self) -> ConnectionPoolEntry:
        await_only(self._enter())
        try:
            return super()._do_get()
        except BaseException:
            self._gate.release()
            raise

    def _do_return_conn(self, record: ConnectionPoolEntry) -> None:
        try:
            super()._do_return_conn(record)
        finally:
            self._gate.release()

    def measure(self) -> None:
        """Set the gauges of this process."""
        POOL_SIZE.set(self.size() + max(0, self._max_overflow))
        POOL_IN_USE.set(self.checkedout())
        POOL_WAITING.set(self.waiting)

    async def _enter(self) -> None:
        if not self._gate.locked():
            await self._gate.acquire()  # free: returns without waiting, no timer needed
            return
        began = time.monotonic()
        self.waiting += 1
        try:
            async with asyncio.timeout(self.timeout()):
                await self._gate.acquire()
        except TimeoutError:
            POOL_REFUSED.inc()
            raise PoolExhausted("All database connections are busy.") from None
        finally:
            self.waiting -= 1
            waited = time.monotonic() - began
            POOL_WAIT.observe(exact(waited))
            if (current := request_context.get()) is not None:
                current.waited_seconds += waited
