"""Single queries that run beside each other, each in a session of its own.

A session belongs to one task, because it runs one statement at a time. A query that the server has
not run to its end runs once more.
"""

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


async def read_alone(database: Database, query: Query[T]) -> T:
    """Run `query` in a session of its own, whose connection is returned when it ends."""
    try:
        return await _run(database, query)
    except SQLAlchemyError as error:
        if not is_safe_to_retry(error):
            raise
    return await _run(database, query)


async def read_lagging_alone(database: Database, replica: Replica | None, query: Query[T]) -> T:
    """Run `query` where it may read what is DATABASE_REPLICA_LAG_SECONDS old.

    It uses the replica while its lag is small, and the primary if the query fails there.
    """
    if replica is not None and replica.is_up_to_date:
        REPLICA_READS.labels("replica").inc()
        try:
            return await _run(replica.database, query)
        except (Unavailable, DBAPIError) as error:
            if not replica.should_retry_on_primary(error):
                raise
    else:
        REPLICA_READS.labels("primary").inc()
    return await read_alone(database, query)


async def _run(database: Database, query: Query[T]) -> T:
    async with database.read() as session:
        return await query(session)
