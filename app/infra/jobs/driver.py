"""Lets pgqueuer send its statements through SQLAlchemy.

So they have the timeouts, the pool and the error handling of all other statements, and a job can be
enqueued in the transaction of a request.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import cast

import orjson
from pgqueuer.adapters.persistence.qb import QueryBuilderEnvironment, QueryQueueBuilder
from pgqueuer.domain.settings import DBSettings
from pgqueuer.ports.driver import Driver
from pgqueuer.queries import Queries
from sqlalchemy import RowMapping
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession

# The names of the migration. Without these arguments pgqueuer reads them from environment variables
# with common names, such as QUEUE_TABLE and DURABILITY. The last five do not exist in the database.
NAMES = DBSettings(
    queue_status_type="pgqueuer_status",
    queue_table="pgqueuer",
    queue_table_log="pgqueuer_log",
    channel="ch_pgqueuer",
    function="fn_pgqueuer_changed",
    trigger="tg_pgqueuer_changed",
    schedules_table="pgqueuer_schedules",
    statistics_table="pgqueuer_statistics",
)

OpenConnection = Callable[[], AbstractAsyncContextManager[AsyncConnection]]


class SqlAlchemyDriver:
    """The part of a driver that sends statements. There is no LISTEN, because the workers poll."""

    def __init__(self, open_connection: OpenConnection) -> None:
        self._open_connection = open_connection

    async def fetch(self, query: str, *args: object) -> list[dict[str, object]]:
        async with self._open_connection() as connection:
            result = await connection.exec_driver_sql(query, args)
            return [_as_asyncpg_does(row) for row in result.mappings()]

    async def execute(self, query: str, *args: object) -> str:
        async with self._open_connection() as connection:
            await connection.exec_driver_sql(query, args)
        return ""


def _as_asyncpg_does(row: RowMapping) -> dict[str, object]:
    """Return the row with JSON as text. SQLAlchemy has parsed it, and pgqueuer parses it itself."""
    return {
        name: orjson.dumps(value).decode() if isinstance(value, dict | list) else value
        for name, value in row.items()
    }


def queries_in(session: AsyncSession) -> Queries:
    """Return the statements of pgqueuer, to be sent in the transaction of `session`."""

    @asynccontextmanager
    async def connection() -> AsyncIterator[AsyncConnection]:
        yield await session.connection()

    return _queries(connection)


def queries_of(engine: AsyncEngine) -> Queries:
    """Return the statements of pgqueuer, each in its own transaction."""
    return _queries(engine.execution_options(isolation_level="AUTOCOMMIT").connect)


def _queries(open_connection: OpenConnection) -> Queries:
    return Queries(
        cast("Driver", SqlAlchemyDriver(open_connection)),
        qbe=QueryBuilderEnvironment(NAMES),
        qbq=QueryQueueBuilder(NAMES),
    )
