"""Counts and times the statements of each request, for its headers, its log line and its budget."""

from time import perf_counter
from typing import Any

from sqlalchemy import Engine, event

from app.infra.observability.request_context import request_context


def record_statements(engine: Engine) -> None:
    """Note every statement on the exchange in whose context it is sent."""
    event.listen(engine, "before_cursor_execute", _before)
    event.listen(engine, "after_cursor_execute", _after)
    event.listen(engine, "handle_error", _failed)


def _before(
    _connection: Any, _cursor: Any, statement: str, _parameters: Any, context: Any, _many: bool
) -> None:
    if (current := request_context.get()) is not None:
        current.statements.append(statement)
        context.begun_at = perf_counter()


def _after(
    _connection: Any, _cursor: Any, statement: str, _parameters: Any, context: Any, _many: bool
) -> None:
    if (current := request_context.get()) is not None:
        current.spent(statement, perf_counter() - context.begun_at)


def _failed(error: Any) -> None:
    current, context = request_context.get(), error.execution_context
    if current is not None and context is not None and hasattr(context, "begun_at"):
        current.spent(error.statement, perf_counter() - context.begun_at)
