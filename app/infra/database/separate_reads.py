"""Single queries of one request that run beside each other, each in a session of its own.

A session belongs to one task, because it runs one statement at a time. A query that the server did
not run to its end runs once more.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
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
TRIAL_SHARE = 0.1  # of its time, for a query that was too slow for another caller


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

    async def read(self, name: str, query: Query[T], seconds: float, *, caller: Hashable) -> T:
        """Run `query` in a session, whose connection is returned when it ends.

        Raises TimeoutError after `seconds`. The time for which the query waits for its turn does
        not count: on a busy machine everything is slow, and waiting is better than failing.

        But if a query takes too long, the waiting queries with its `name` would probably be too
        slow as well, and each would keep others waiting for `seconds`. Those of the same `caller`
        fail with it. The next one of another caller gets a tenth of its time, because the first
        caller alone may have more rows than others. If that is too slow too, all of them fail:
        then their table is probably locked.
        """
        try:
            return await self._primary.run(name, query, seconds, caller)
        except SQLAlchemyError as error:
            if not is_safe_to_retry(error):
                raise
        return await self._primary.run(name, query, seconds, caller)

    async def read_lagging(
        self, name: str, query: Query[T], seconds: float, *, caller: Hashable
    ) -> T:
        """Run `query` where it may read what is DATABASE_REPLICA_LAG_SECONDS old.

        It uses the replica while its lag is small, and the primary if the query fails there.
        """
        replica, places = self._replica, self._on_replica
        if replica is None or places is None or not replica.is_up_to_date:
            REPLICA_READS.labels("primary").inc()
            return await self.read(name, query, seconds, caller=caller)
        REPLICA_READS.labels("replica").inc()
        try:
            return await places.run(name, query, seconds, caller)
        except (Unavailable, DBAPIError) as error:
            if not replica.should_retry_on_primary(error):
                raise
        return await self.read(name, query, seconds, caller=caller)


class _Places:
    """Half of the connections to one server, in the order in which queries ask for them."""

    def __init__(self, database: Database, pool_size: int) -> None:
        self._database = database
        self._free = asyncio.Semaphore(max(1, pool_size // 2))
        # For each waiting query: its name, and the callers for whom the name was too slow since.
        self._waiting: dict[object, tuple[str, set[Hashable]]] = {}

    async def run(self, name: str, query: Query[T], seconds: float, caller: Hashable) -> T:
        ticket, slow_for = object(), set[Hashable]()
        self._waiting[ticket] = name, slow_for
        try:
            async with asyncio.timeout(WAITING_SECONDS):
                await self._free.acquire()
        finally:
            del self._waiting[ticket]
        limit = asyncio.timeout(seconds * TRIAL_SHARE if slow_for else seconds)
        try:
            if caller in slow_for or len(slow_for) > 1:
                raise TimeoutError
            async with limit, self._database.read() as session:
                return await query(session)
        finally:
            if limit.expired():
                self._tell_waiting(name, caller)
            self._free.release()

    def _tell_waiting(self, name: str, caller: Hashable) -> None:
        for waiting_name, slow_for in self._waiting.values():
            if waiting_name == name:
                slow_for.add(caller)
