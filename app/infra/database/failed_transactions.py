"""Refuses to commit a transaction in which a statement has failed.

PostgreSQL answers COMMIT with a ROLLBACK then, and the driver reports no error. A caller that had
caught the error of the statement would answer with success, though nothing was stored.
"""

from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import PendingRollbackError

HAS_FAILED = "transaction_has_failed"
REFUSED = (
    "A statement of this transaction has failed, so PostgreSQL would undo all of it. Let the error "
    "leave the block of the transaction, or run the statement inside begin_nested()."
)


def refuse_to_commit_failures(engine: Engine) -> None:
    event.listen(engine, "begin", _begin)
    event.listen(engine, "handle_error", _note_failure)
    event.listen(engine, "rollback_savepoint", _undo_to_savepoint)
    event.listen(engine, "commit", _commit)


def _begin(connection: Connection) -> None:
    connection.info.pop(HAS_FAILED, None)


def _note_failure(context: ExceptionContext) -> None:
    if context.connection is not None and not context.is_disconnect:
        context.connection.info[HAS_FAILED] = True


def _undo_to_savepoint(connection: Connection, _name: str, _context: None) -> None:
    connection.info.pop(HAS_FAILED, None)


def _commit(connection: Connection) -> None:
    if HAS_FAILED in connection.info:
        raise PendingRollbackError(REFUSED)
