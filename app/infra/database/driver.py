"""Sends statements with asyncpg itself, on a connection of the pool."""

import asyncio
from collections.abc import Sequence
from typing import Any

import asyncpg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.util import greenlet_spawn

from app.errors import Unavailable
from app.infra.database.engine import DISCONNECT_SQLSTATES
from app.infra.database.error_values import remove_values
from app.infra.database.query_stats import recorded

DRIVER_ERRORS = (
    OSError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.PostgresError,
)


async def fetch(engine: AsyncEngine, sql: str, *values: Any) -> Sequence[Sequence[Any]]:
    """Run a statement outside a transaction, and return its rows.

    The connection and the snapshot are given back before this returns. It raises what SQLAlchemy
    would raise: `DBAPIError`, and `Unavailable` after a timeout or without a connection.
    """
    connection = await engine.raw_connection()
    try:
        driver: Any = connection.driver_connection
        with recorded(sql):
            records: Sequence[Sequence[Any]] = await driver.fetch(sql, *values)
    except BaseException as error:
        is_lost = _is_lost(driver, error)
        if isinstance(error, asyncio.CancelledError):
            # In a greenlet, this waits until the server has cancelled the statement.
            await greenlet_spawn(connection.invalidate)
        elif is_lost or isinstance(error, asyncpg.InternalServerError):
            # Prepared statements may refer to a type that a migration has replaced.
            connection.invalidate()  # outside a greenlet, this closes the socket at once
        if isinstance(error, TimeoutError):
            raise Unavailable("The database did not answer in time.") from error
        if isinstance(error, DRIVER_ERRORS):
            remove_values(error)
            raise DBAPIError(sql, None, error, connection_invalidated=is_lost) from error
        raise
    finally:
        connection.close()
    return records


def _is_lost(driver: Any, error: BaseException) -> bool:
    """Return whether the connection cannot be used again.

    After a cancellation, the server may still be working on the statement.
    """
    if not isinstance(error, Exception) or driver.is_closed():
        return True
    if isinstance(error, OSError | asyncpg.InternalClientError | asyncpg.PostgresConnectionError):
        return True
    return getattr(error, "sqlstate", None) in DISCONNECT_SQLSTATES
