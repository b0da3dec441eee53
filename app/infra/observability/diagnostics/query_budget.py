"""Looks at what a request did to the database: too many statements, a connection it keeps.

The request was answered all the same; what was found is reported.
"""

from collections import Counter

from app.infra.observability.diagnostics.report import report
from app.infra.observability.request_context import RequestContext


def guard(current: RequestContext, statement_budget: int) -> None:
    """Report what a request should not have done."""
    if len(current.statements) > statement_budget:
        report("statement_budget", f"{_name(current)} {_repeated(current)}")
    if current.connections:
        report(
            "leaked_connection",
            f"{_name(current)} ended and holds {current.connections} connections: "
            "a session was opened and not closed",
        )


def _name(current: RequestContext) -> str:
    return f"{current.method} {current.route or current.path}"


def _repeated(current: RequestContext) -> str:
    [(statement, times)] = Counter(current.statements).most_common(1)
    sent = len(current.statements)
    return f"sent {sent} statements, {times} of them: {' '.join(statement.split())}"
