"""Maps database errors to answers by their SQLSTATE (PostgreSQL documentation, appendix A).

Features check their input themselves; this covers races and failures. An error that is not listed
is a bug or an operator's mistake. It stays a 500, and the log names the constraint. While the
schema is behind the code, it is a 503 instead: see `schema.py`.
"""

import re

from asyncpg.exceptions import InvalidCachedStatementError
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from app.errors import AppError, Conflict, InvalidRequest, Unavailable

CONFLICTS = {
    "23505": "The same entry exists already.",  # unique_violation
    "23503": "The request refers to something that does not exist.",  # foreign_key_violation
}
TRANSIENT = {
    "40001": "The change collided with another change.",  # serialization_failure
    "40P01": "The change collided with another change.",  # deadlock_detected
    "55P03": "Another change holds a lock that this one needs.",  # lock_not_available
    "57014": "The database took too long.",  # query_canceled: statement_timeout
    "25P03": "The database took too long.",  # idle_in_transaction_session_timeout
}
# Connection exception, insufficient resources, operator intervention, system error.
UNAVAILABLE_CLASSES = ("08", "53", "57", "58")
# Data exceptions that a client's value can cause. Others of class 22 are not the client's fault:
# 2200H is an exhausted sequence, 22012 a division by zero in our SQL.
INVALID_VALUES = (
    "22001",  # string_data_right_truncation
    "22003",  # numeric_value_out_of_range
    "22007",  # invalid_datetime_format
    "22008",  # datetime_field_overflow
    "22021",  # character_not_in_repertoire
    "22P02",  # invalid_text_representation
    "22P05",  # untranslatable_character
)
INSUFFICIENT_PRIVILEGE = "42501"
# Names of primary keys: by our naming convention, and by PostgreSQL's.
PRIMARY_KEY = re.compile(r"pk_.+|.+_pkey")


def is_safe_to_retry(error: SQLAlchemyError) -> bool:
    """Return whether the server rolled the transaction back, so that the request may run again."""
    if not isinstance(error, DBAPIError):
        return False
    undone = getattr(error.orig, "sqlstate", None) in ("40001", "40P01")
    return undone or error.connection_invalidated or _is_schema_change(error)


def to_app_error(error: SQLAlchemyError) -> AppError | None:
    """Return the error that the client gets, or None when `error` is unexpected (a 500)."""
    if isinstance(error, PoolTimeout):
        return Unavailable("All database connections are busy.")
    if not isinstance(error, DBAPIError):
        return None
    sqlstate = getattr(error.orig, "sqlstate", None) or ""
    if sqlstate in CONFLICTS:
        # PostgreSQL generates primary keys. A collision means that the sequence is behind.
        if PRIMARY_KEY.fullmatch(violated_constraint(error) or ""):
            return None
        return Conflict(CONFLICTS[sqlstate])
    if sqlstate in TRANSIENT:
        return Unavailable(TRANSIENT[sqlstate])
    if _is_schema_change(error):
        return Unavailable("The database schema has just changed.")
    if error.connection_invalidated or sqlstate.startswith(UNAVAILABLE_CLASSES):
        return Unavailable("The database is not available.")
    if lacks_privilege(error):
        return Unavailable(
            "The database does not permit this to the service.", code="missing_privilege"
        )
    if sqlstate in INVALID_VALUES:
        return InvalidRequest("The database cannot store one of the values.")
    return None


def lacks_privilege(error: DBAPIError) -> bool:
    """Return whether the database role of the service lacks a privilege."""
    return getattr(error.orig, "sqlstate", None) == INSUFFICIENT_PRIVILEGE


def describe(error: SQLAlchemyError) -> str:
    """Describe an error for the log.

    The message of most errors may quote what a client sent, and is left out. The messages of class
    42 (syntax error or access rule violation) only name tables, columns and functions.
    """
    sqlstate = getattr(getattr(error, "orig", None), "sqlstate", None)
    constraint = violated_constraint(error) if isinstance(error, DBAPIError) else None
    named = f", constraint {constraint}" if constraint else ""
    if isinstance(error, DBAPIError) and error.orig and (sqlstate or "").startswith("42"):
        named = f", {str(_driver_error(error)).splitlines()[0]}"
    return f"{type(error).__name__}, SQLSTATE {sqlstate}{named}"


def violated_constraint(error: DBAPIError) -> str | None:
    """Return the name of the violated constraint, if the error has one."""
    return getattr(_driver_error(error), "constraint_name", None)


def _is_schema_change(error: DBAPIError) -> bool:
    """Return whether a migration has invalidated a prepared statement."""
    return isinstance(_driver_error(error), InvalidCachedStatementError)


def _driver_error(error: DBAPIError) -> BaseException | None:
    """Return the error of asyncpg: the cause of SQLAlchemy's own, or the error of a COPY itself."""
    return error.orig and (error.orig.__cause__ or error.orig)
