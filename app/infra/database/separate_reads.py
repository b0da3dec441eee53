"""Single queries of one request that run beside each other, each in a session of its own.

A session belongs to one task, because it runs one statement at a time. A query that the server did
not run to its end runs once more.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import Unavailable
from app.infra.database.error_mapping import is_safe_to_retry
from app.infra.database.replica import Replica
from app.infra.database.sessions import Database
from app.infra.observability.metrics import REPLICA_READS

T = TypeVar("T")
Query = Callable[[AsyncSession], Awaitable[T]]


class SeparateReads:
    """Runs queries in sessions of their own. All of them together use half of a pool.

    A request that runs three queries at once would otherwise push other requests aside, which need
    one connection each. Nothing waits for a second connection while it holds one, so queries cannot
    wait for each other.
    """

    def __init__(self, database: Database, replica: Replica | None, pool_size: int) -> None:
        self._database = database
        self._replica = replica
        half = max(1, pool_size // 2)
        self._places, self._replica_places = asyncio.Semaphore(half), asyncio.Semaphore(half)

    async def read(self, query: Query[T]) -> T:
        """Run `query` in a session, whose connection is returned when it ends."""
        try:
            return await self._run(query)
        except SQLAlchemyError as error:
            if not is_safe_to_retry(error):
                raise
        return await self._run(query)

    async def read_lagging(self, query: Query[T]) -> T:
        """Run `query` where it may read what is DATABASE_REPLICA_LAG_SECONDS old.

        It uses the replica while its lag is small, and the primary if the query fails there.
        """
        replica = self._replica
        if replica is None or not replica.is_up_to_date:
            REPLICA_READS.labels("primary").inc()
            return await self.read(query)
        REPLICA_READS.labels("replica").inc()
        try:
            async with self._replica_places, replica.database.read() as session:
                return await query(session)
        except (Unavailable, DBAPIError) as error:
            if not replica.should_retry_on_primary(error):
                raise
        return await self.read(query)

    async def _run(self, query: Query[T]) -> T:
        async with self._places, self._database.read() as session:
            return await query(session)
