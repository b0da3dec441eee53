"""Which database errors are expected, by SQLSTATE: the backstop behind the checks of the features.

Codes: PostgreSQL documentation, appendix A. What is not listed here is a fault of the code or
of the operator, and stays a 500: the log names the constraint or the sequence.
"""

import re

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
# Data exceptions that a value can cause. The others of class 22 are not the client's fault:
# 2200H is a sequence at its end, 22012 a division by zero in our own SQL.
UNSTORABLE = (
    "22001",  # string_data_right_truncation
    "22003",  # numeric_value_out_of_range
    "22007",  # invalid_datetime_format
    "22008",  # datetime_field_overflow
    "22021",  # character_not_in_repertoire
    "22P02",  # invalid_text_representation
    "22P05",  # untranslatable_character
)
# Primary keys by our naming convention, and by PostgreSQL's own.
PRIMARY_KEY = re.compile(r"pk_.+|.+_pkey")


def is_safe_to_retry(error: SQLAlchemyError) -> bool:
    """Whether the server has undone the transaction, so that the same work may be tried again."""
    if not isinstance(error, DBAPIError):
        return False
    undone = getattr(error.orig, "sqlstate", None) in ("40001", "40P01")
    return undone or error.connection_invalidated or _is_of_old_schema(error)


def to_app_error(error: SQLAlchemyError) -> AppError | None:
    """Return what a client is told about `error`, or None when nobody expected it."""
    if isinstance(error, PoolTimeout):
        return Unavailable("All database connections are busy.")
    if not isinstance(error, DBAPIError):
        return None
    sqlstate = getattr(error.orig, "sqlstate", None) or ""
    if sqlstate in CONFLICTS:
        # The database makes primary keys itself: a collision means that its sequence is behind.
        if PRIMARY_KEY.fullmatch(violated_constraint(error) or ""):
            return None
        return Conflict(CONFLICTS[sqlstate])
    if sqlstate in TRANSIENT:
        return Unavailable(TRANSIENT[sqlstate])
    if _is_of_old_schema(error):
        return Unavailable("The schema was changed at this moment.")
    if error.connection_invalidated or sqlstate.startswith(UNAVAILABLE_CLASSES):
        return Unavailable("The database is not available.")
    if sqlstate in UNSTORABLE:
        return InvalidRequest("A value is not one that can be stored.")
    return None


def violated_constraint(error: DBAPIError) -> str | None:
    """Return the name of the constraint that a statement violated, if it did."""
    return getattr(error.orig and error.orig.__cause__, "constraint_name", None)


def _is_of_old_schema(error: DBAPIError) -> bool:
    """Whether a migration has changed a table under a prepared statement, which was refused."""
    return isinstance(error.orig and error.orig.__cause__, InvalidCachedStatementError)
