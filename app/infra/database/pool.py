"""A connection pool that serves waiting requests first in, first out.

SQLAlchemy's asyncio pool wakes a waiter, but lets a newcomer take the connection before it. Under
load some requests then wait for seconds while others never wait. Here a semaphore, which is fair,
stands before the checkout.
"""

import asyncio
import logging
import time
from typing import Any

import asyncpg
from sqlalchemy import AsyncAdaptedQueuePool
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection
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
from app.infra.observability.repeat_filter import RepeatFilter
from app.infra.observability.request_context import request_context

logger = logging.getLogger(__name__)
logger.addFilter(RepeatFilter())  # while the database is down, every request tries to connect


class PoolExhausted(Unavailable):
    """No connection was returned within the timeout of the pool."""


class FifoPool(AsyncAdaptedQueuePool):
    """SQLAlchemy's pool behind a semaphore. There is no overflow."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.waiting = 0
        self._gate = asyncio.Semaphore(self.size())

    def connect(self) -> PoolProxiedConnection:
        """Return a connection, or raise `Unavailable`.

        SQLAlchemy converts the errors of asyncpg only while connecting. It sets up a new connection
        afterwards, and the server may have closed it by then.
        """
        try:
            return super().connect()
        except (OSError, TimeoutError, asyncpg.InterfaceError, asyncpg.PostgresError) as error:
            raise unreachable(error) from error

    def _do_get(self) -> ConnectionPoolEntry:
        await_only(self._acquire())
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
        POOL_SIZE.set(self.size())
        POOL_IN_USE.set(self.checkedout())
        POOL_WAITING.set(self.waiting)

    async def _acquire(self) -> None:
        if not self._gate.locked():
            await self._gate.acquire()  # a connection is free, so this does not wait
            return
        started = time.monotonic()
        self.waiting += 1
        try:
            async with asyncio.timeout(self.timeout()):
                await self._gate.acquire()
        except TimeoutError:
            POOL_REFUSED.inc()
            raise PoolExhausted("All database connections are busy.") from None
        finally:
            self.waiting -= 1
            waited = time.monotonic() - started
            POOL_WAIT.observe(exact(waited))
            if (current := request_context.get()) is not None:
                current.pool_wait_seconds += waited


def unreachable(error: Exception) -> Unavailable:
    """Log the error of an attempt to connect, and return the error for the client."""
    logger.warning("Cannot connect to the database: %s: %s", type(error).__name__, error)
    return Unavailable("The database cannot be reached.")
