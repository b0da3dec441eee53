"""Looks at what a request did to the database: too many statements, a connection it keeps."""

from collections import Counter

from starlette.types import ASGIApp, Receive, Scope, Send

from app.infra.exchange import Exchange, exchange
from app.infra.findings import report
from app.infra.web.metrics import route_of


class GuardMiddleware:
    """Pure ASGI. The request is answered all the same; what was found is reported."""

    def __init__(self, app: ASGIApp, statement_budget: int) -> None:
        self.app = app
        self._statement_budget = statement_budget

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)
        current = exchange.get()
        if current is None:
            return
        if len(current.statements) > self._statement_budget:
            report("statement_budget", f"{_name(current, scope)} {_repeated(current)}")
        if current.connections:
            report(
                "leaked_connection",
                f"{_name(current, scope)} ended and holds {current.connections} connections: "
                "a session was opened and not closed",
            )


def _name(current: Exchange, scope: Scope) -> str:
    return f"{scope['method']} {current.route or route_of(scope) or scope['path']}"


def _repeated(current: Exchange) -> str:
    [(statement, times)] = Counter(current.statements).most_common(1)
    sent = len(current.statements)
    return f"sent {sent} statements, {times} of them: {' '.join(statement.split())}"
