"""Which database errors are expected, by SQLSTATE: the backstop behind the checks of the features.

Codes: PostgreSQL documentation, appendix A. What is not listed here is a bug, and stays a 500.
"""

from asyncpg.exceptions import InvalidCachedStatementError
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from app.errors import AppError, Conflict, InvalidRequest, Unavailable

CONFLICTS = {"23505": "There is such a thing already.", "23503": "It refers to a missing thing."}
TRANSIENT = {
    "40001": "Other changes got in the way of this one.",  # serialization_failure
    "40P01": "Other changes got in the way of this one.",  # deadlock_detected
    "55P03": "Another change holds what this one needs.",  # lock_not_available
    "57014": "The database took too long.",  # query_canceled: statement_timeout
    "25P03": "The database took too long.",  # idle_in_transaction_session_timeout
}
# Connection exceptions, insufficient resources, operator intervention, system errors.
UNAVAILABLE_CLASSES = ("08", "53", "57", "58")
DATA_EXCEPTION_CLASS = "22"


def left_nothing_behind(error: SQLAlchemyError) -> bool:
    """Whether the server has undone the transaction, so that the same work may be tried again."""
    if not isinstance(error, DBAPIError):
        return False
    undone = getattr(error.orig, "sqlstate", None) in ("40001", "40P01")
    return undone or error.connection_invalidated or _is_of_old_schema(error)


def expected_failure(error: SQLAlchemyError) -> AppError | None:
    """Return what a client is told about `error`, or None when nobody expected it."""
    if isinstance(error, PoolTimeout):
        return Unavailable("All database connections are busy.")
    if not isinstance(error, DBAPIError):
        return None
    sqlstate = getattr(error.orig, "sqlstate", None) or ""
    if sqlstate in CONFLICTS:
        return Conflict(CONFLICTS[sqlstate])
    if sqlstate in TRANSIENT:
        return Unavailable(TRANSIENT[sqlstate])
    if _is_of_old_schema(error):
        return Unavailable("The schema was changed at this moment.")
    if error.connection_invalidated or sqlstate.startswith(UNAVAILABLE_CLASSES):
        return Unavailable("The database is not available.")
    if sqlstate.startswith(DATA_EXCEPTION_CLASS):
        return InvalidRequest("A value is not one that can be stored.")
    return None


def _is_of_old_schema(error: DBAPIError) -> bool:
    """Whether a migration has changed a table under a prepared statement, which was refused."""
    return isinstance(error.orig and error.orig.__cause__, InvalidCachedStatementError)
