"""Removes values from the errors of the driver, because unexpected errors are logged."""

import asyncpg

DATA_EXCEPTION = "22"  # the class of SQLSTATEs for values that are not valid
EXHAUSTED_SEQUENCE = "2200H"  # is in that class too, but names the sequence and no value


def remove_values(error: BaseException) -> None:
    """Remove the row or the value that an error of asyncpg quotes, in place.

    PostgreSQL quotes a row in DETAIL. An invalid value stands in the message, after a colon. If
    asyncpg has found it before sending it, the cause of the error quotes it too.
    """
    if isinstance(error, asyncpg.PostgresError):
        error.detail = None
        sqlstate = error.sqlstate or ""
        if sqlstate.startswith(DATA_EXCEPTION) and sqlstate != EXHAUSTED_SEQUENCE:
            error.args = (str(error.args[0]).partition(":")[0], *error.args[1:])
            error.__cause__ = None
