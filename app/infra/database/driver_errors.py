"""What the errors of asyncpg mean, for statements that are sent without SQLAlchemy."""

from typing import Any

import asyncpg
from sqlalchemy.exc import DBAPIError, IntegrityError

from app.errors import Unavailable
from app.infra.database.error_values import remove_values

# admin_shutdown, crash_shutdown, cannot_connect_now, and read_only_sql_transaction: after a
# failover the connection may lead to a server that has become a standby.
DISCONNECT_SQLSTATES = ("57P01", "57P02", "57P03", "25006")
DRIVER_ERRORS = (
    OSError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.PostgresError,
)


def is_lost(driver: Any, error: BaseException) -> bool:
    """Return whether the connection cannot be used again.

    After a cancellation, the server may still be working on the statement.
    """
    if not isinstance(error, Exception) or driver.is_closed():
        return True
    if isinstance(error, OSError | asyncpg.InternalClientError | asyncpg.PostgresConnectionError):
        return True
    return getattr(error, "sqlstate", None) in DISCONNECT_SQLSTATES


def leaves_statement(error: BaseException | None) -> bool:
    """Return whether the server may wait for the rest of the statement, with its locks.

    This is so if the driver itself raised the error, between the SQL and the values. After the
    statement timeout, the next statement on the connection fails. The end of a transaction ends the
    statement too.
    """
    # The driver raises this very class. Errors of the server have one of its subclasses.
    return type(error) is asyncpg.DataError or isinstance(error, asyncpg.InterfaceError)


def as_sqlalchemy_raises(error: BaseException, sql: str, *, is_lost: bool) -> BaseException:
    """Return what SQLAlchemy would raise: `DBAPIError`, and `Unavailable` after a timeout.

    An error that is not one of the driver is returned as it is.
    """
    if isinstance(error, TimeoutError):
        return Unavailable("The database did not answer in time.")
    if not isinstance(error, DRIVER_ERRORS):
        return error
    remove_values(error)
    is_integrity = isinstance(error, asyncpg.IntegrityConstraintViolationError)
    kind = IntegrityError if is_integrity else DBAPIError
    return kind(sql, None, error, connection_invalidated=is_lost)
