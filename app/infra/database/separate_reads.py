"""Single queries of one request that run beside each other, each in a session of its own.

A session belongs to one task, because it runs one statement at a time. A query that the server did
not run to its end runs once more.
"""

import asyncio
from collections import Counter
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
WAITING_SECONDS = 5.0  # for a place, which is less than a request may take


class SeparateReads:
    """Runs queries in sessions of their own. All of them together use half of a pool.

    A request that runs three queries at once would otherwise push other requests aside, which need
    one connection each. Nothing waits for a second connection while it holds one, so queries cannot
    wait for each other.
    """

    def __init__(self, database: Database, replica: Replica | None, pool_size: int) -> None:
        self._primary = _Places(database, pool_size)
        self._replica = replica
        self._on_replica = None if replica is None else _Places(replica.database, pool_size)

    async def read(self, name: str, query: Query[T], seconds: float) -> T:
        """Run `query` in a session, whose connection is returned when it ends.

        Raises TimeoutError after `seconds`. The time for which the query waits for its turn does
        not count: on a busy machine everything is slow, and waiting is better than failing. But if
        a query with this `name` takes too long, the waiting queries with that name fail too. They
        probably need the same table, and each would keep the others waiting for `seconds`.
        """
        try:
            return await self._primary.run(name, query, seconds)
        except SQLAlchemyError as error:
            if not is_safe_to_retry(error):
                raise
        return await self._primary.run(name, query, seconds)

    async def read_lagging(self, name: str, query: Query[T], seconds: float) -> T:
        """Run `query` where it may read what is DATABASE_REPLICA_LAG_SECONDS old.

        It uses the replica while its lag is small, and the primary if the query fails there.
        """
        replica, places = self._replica, self._on_replica
        if replica is None or places is None or not replica.is_up_to_date:
            REPLICA_READS.labels("primary").inc()
            return await self.read(name, query, seconds)
        REPLICA_READS.labels("replica").inc()
        try:
            return await places.run(name, query, seconds)
        except (Unavailable, DBAPIError) as error:
            if not replica.should_retry_on_primary(error):
                raise
        return await self.read(name, query, seconds)


class _Places:
    """Half of the connections to one server, in the order in which queries ask for them."""

    def __init__(self, database: Database, pool_size: int) -> None:
        self._database = database
        self._free = asyncio.Semaphore(max(1, pool_size // 2))
        self._too_slow: Counter[str] = Counter()

    async def run(self, name: str, query: Query[T], seconds: float) -> T:
        before = self._too_slow[name]
        async with asyncio.timeout(WAITING_SECONDS):
            await self._free.acquire()
        try:
            if self._too_slow[name] != before:
                raise TimeoutError
            return await self._run(name, query, seconds)
        finally:
            self._free.release()

    async def _run(self, name: str, query: Query[T], seconds: float) -> T:
        limit = asyncio.timeout(seconds)
        try:
            async with limit, self._database.read() as session:
                return await query(session)
        finally:
            self._too_slow[name] += limit.expired()
