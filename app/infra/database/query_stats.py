"""Records the statements of each request in its context, with the time that each one took."""

from contextvars import ContextVar
from time import perf_counter
from typing import Any

from sqlalchemy import Engine, event

from app.infra.observability.request_context import request_context

# A task runs one statement at a time, so one value for each task is enough.
_started_at: ContextVar[float | None] = ContextVar("statement_started_at", default=None)


def record_statements(engine: Engine) -> None:
    event.listen(engine, "before_cursor_execute", _on_start)
    event.listen(engine, "after_cursor_execute", _on_success)
    event.listen(engine, "handle_error", lambda error: _on_end(error.statement))


def _on_start(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
    if (current := request_context.get()) is not None:
        current.statements.append(statement)
        _started_at.set(perf_counter())


def _on_success(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
    _on_end(statement)


def _on_end(statement: str) -> None:
    """Record the time. An error before the statement was sent, or at COMMIT, has no start time."""
    current, started_at = request_context.get(), _started_at.get()
    if current is not None and started_at is not None:
        current.spent(statement, perf_counter() - started_at)
        _started_at.set(None)
