"""Reports requests that send too many statements or that do not return a connection."""

from collections import Counter
from typing import Any

from sqlalchemy import Engine, event
from sqlalchemy.pool import ConnectionPoolEntry

from app.infra.observability.diagnostics.report import report
from app.infra.observability.request_context import RequestContext, request_context

# Which request has checked out which connection. It may be returned in another context.
_holders: dict[ConnectionPoolEntry, RequestContext] = {}


def count_connections(engine: Engine) -> None:
    """Count on each request context how many connections of `engine` the request holds."""
    event.listen(engine, "checkout", _checked_out)
    event.listen(engine, "checkin", _checked_in)


def check_database_use(current: RequestContext, statement_budget: int) -> None:
    """Check a request that has been answered. The statements of a stream have no budget."""
    if len(current.statements) > statement_budget:
        report("statement_budget", f"{_name(current)} {_repeated_statement(current)}")
    if current.connections:
        report(
            "leaked_connection",
            f"{_name(current)} ended and holds {current.connections} connections: "
            "a session was opened and not closed",
        )


def _checked_out(_connection: Any, entry: ConnectionPoolEntry, _proxy: Any) -> None:
    if (current := request_context.get()) is not None:
        current.connections += 1
        _holders[entry] = current


def _checked_in(_connection: Any, entry: ConnectionPoolEntry) -> None:
    if (holder := _holders.pop(entry, None)) is not None:
        holder.connections -= 1


def _name(current: RequestContext) -> str:
    return f"{current.method} {current.route or current.path}"


def _repeated_statement(current: RequestContext) -> str:
    [(statement, times)] = Counter(current.statements).most_common(1)
    total = len(current.statements)
    return f"sent {total} statements, {times} of them: {' '.join(statement.split())}"
