"""Sends statements with asyncpg itself, on a connection of the pool."""

import asyncio
from collections.abc import Sequence
from typing import Any

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.util import greenlet_spawn

from app.infra.database.driver_errors import as_sqlalchemy_raises, is_lost, leaves_statement
from app.infra.database.query_stats import recorded


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
        lost = is_lost(driver, error)
        if isinstance(error, asyncio.CancelledError):
            # In a greenlet, this waits until the server has cancelled the statement.
            await greenlet_spawn(connection.invalidate)
        elif lost or leaves_statement(error) or isinstance(error, asyncpg.InternalServerError):
            # Prepared statements may refer to a type that a migration has replaced.
            connection.invalidate()  # outside a greenlet, this closes the socket at once
        raised = as_sqlalchemy_raises(error, sql, is_lost=lost)
        if raised is error:
            raise
        raise raised from error
    finally:
        connection.close()
    return records
