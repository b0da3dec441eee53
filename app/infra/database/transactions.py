"""Transactions that asyncpg itself begins and ends, so that it may send their statements too.

SQLAlchemy's dialect sends BEGIN together with its own first statement. A statement that is sent
with asyncpg before that would be committed at once. Here BEGIN is sent when a session takes its
connection. Savepoints remain those of SQLAlchemy.
"""

from collections.abc import Sequence
from typing import Any, Final

import asyncpg
from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import DBAPIError, PendingRollbackError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session
from sqlalchemy.util import await_only

from app.infra.database.driver_errors import as_sqlalchemy_raises, is_lost
from app.infra.database.query_stats import recorded

AUTOCOMMIT: Final = "AUTOCOMMIT"
REFUSED = (
    "A statement of this transaction has failed, so PostgreSQL has undone all of it. Let the error "
    "leave the block of the transaction, or run the statement inside begin_nested()."
)


def send_transactions(engine: Engine) -> None:
    """Send the transactions of an engine that was created with AUTOCOMMIT.

    Connections with the option `isolation_level="AUTOCOMMIT"` have none. The other levels, and the
    options `postgresql_readonly` and `postgresql_deferrable`, mean what they mean for SQLAlchemy.
    """
    event.listen(engine, "begin", _begin)
    event.listen(engine, "commit", _commit)
    event.listen(engine, "rollback", _rollback)
    event.listen(engine, "reset", _end_forgotten)


async def fetch_in(session: AsyncSession, sql: str, *values: Any) -> Sequence[Sequence[Any]]:
    """Run a statement in the transaction of a session, and return its rows.

    What the session has added or changed before is written first. It raises what SQLAlchemy would
    raise: `DBAPIError`, and `Unavailable` after a timeout or without a connection.
    """
    return await session.run_sync(_fetch_in, sql, values)


def _fetch_in(session: Session, sql: str, values: Sequence[Any]) -> Sequence[Sequence[Any]]:
    session.flush()
    connection = session.connection()
    with recorded(sql):
        records: Sequence[Sequence[Any]] = _send(connection, "fetch", sql, *values)
    return records


def _begin(connection: Connection) -> None:
    options = connection.get_execution_options()
    level = options.get("isolation_level")
    if level == AUTOCOMMIT:
        return
    begin = "BEGIN"
    if level is not None:  # SQLAlchemy has prepared the connection to send BEGIN
        pooled: Any = connection.connection.dbapi_connection
        connection.dialect.set_isolation_level(pooled, AUTOCOMMIT)
        begin += " ISOLATION LEVEL " + level.replace("_", " ")
    if options.get("postgresql_readonly"):
        begin += " READ ONLY"
    if options.get("postgresql_deferrable"):
        begin += " DEFERRABLE"
    try:
        _send(connection, "execute", begin)
    except BaseException as error:
        # Otherwise SQLAlchemy would send its next statement without BEGIN.
        connection.invalidate()
        connection.close()
        if isinstance(error, DBAPIError):
            error.connection_invalidated = True  # nothing was sent, so the request may run again
        raise


def _commit(connection: Connection) -> None:
    """Commit. PostgreSQL answers with a ROLLBACK if a statement has failed."""
    if _has_transactions(connection) and _send(connection, "execute", "COMMIT") == "ROLLBACK":
        raise PendingRollbackError(REFUSED)


def _rollback(connection: Connection) -> None:
    is_open = not (connection.closed or connection.invalidated)
    if is_open and _has_transactions(connection):
        try:
            _send(connection, "execute", "ROLLBACK")
        except BaseException:
            connection.invalidate()  # a session does not close it after an error
            raise


def _has_transactions(connection: Connection) -> bool:
    return connection.get_execution_options().get("isolation_level") != AUTOCOMMIT


def _send(connection: Connection, method: str, sql: str, *values: Any) -> Any:
    driver: Any = connection.connection.driver_connection
    try:
        return await_only(getattr(driver, method)(sql, *values))
    except BaseException as error:
        lost = is_lost(driver, error)
        if isinstance(error, TimeoutError):
            driver.terminate()  # an orderly close would wait for the server too
        if lost or isinstance(error, asyncpg.InternalServerError):
            connection.invalidate()
        raised = as_sqlalchemy_raises(error, sql, is_lost=lost)
        if raised is error:
            raise
        raise raised from error


def _end_forgotten(connection: Any, *_: Any) -> None:
    """Close a connection that returns to the pool within a transaction."""
    driver = connection.driver_connection
    if not driver.is_closed() and driver.is_in_transaction():
        driver.terminate()
