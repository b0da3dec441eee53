"""Records the statements of each request in its context, with their times and spans."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any

from opentelemetry.trace import Span
from sqlalchemy import Engine, event

from app.infra.observability.request_context import request_context
from app.infra.observability.tracing import end_span, start_span


def record_statements(engine: Engine) -> None:
    event.listen(engine, "before_cursor_execute", _on_start)
    event.listen(engine, "after_cursor_execute", _on_success)
    event.listen(engine, "handle_error", _on_error)


@contextmanager
def recorded(statement: str) -> Iterator[None]:
    """Record a statement that is sent without SQLAlchemy, which has no event for it."""
    execution = object()
    _record_start(execution, statement)
    try:
        yield
    except BaseException as error:
        _record_end(execution, statement, error)
        raise
    _record_end(execution, statement)


def _on_start(
    _connection: Any, _cursor: Any, statement: str, _parameters: Any, execution: Any, _many: bool
) -> None:
    _record_start(execution, statement)


def _record_start(execution: object, statement: str) -> None:
    if (current := request_context.get()) is not None:
        if current.has_started:
            current.streamed_statements += 1
        else:
            current.statements.append(statement)
        span = None if current.span is None else _start_span(statement)
        current.running_statements[execution] = perf_counter(), span


def _on_success(
    _connection: Any, _cursor: Any, statement: str, _parameters: Any, execution: Any, _many: bool
) -> None:
    _record_end(execution, statement)


def _on_error(context: Any) -> None:
    _record_end(context.execution_context, context.statement, context.original_exception)


def _record_end(execution: object, statement: str, error: BaseException | None = None) -> None:
    """Record the time. An error before the statement was sent, or at COMMIT, has no start time."""
    current = request_context.get()
    if current is None or execution not in current.running_statements:
        return
    started_at, span = current.running_statements.pop(execution)
    current.add_database_time(statement, perf_counter() - started_at)
    if span is not None:
        end_span(span, error)


def _start_span(statement: str) -> Span:
    operation = statement.split(maxsplit=1)[0].upper()
    attributes = {"db.system.name": "postgresql", "db.operation.name": operation}
    return start_span(operation, attributes | {"db.query.text": statement})
