"""One request and its answer, as those who observe it see them: headers, metrics, logs, guards."""

from contextvars import ContextVar
from time import perf_counter
from typing import Any


class RequestContext:
    """Filled in as the request goes down and its answer comes up. Nothing in it is shared."""

    __slots__ = (
        "_started",
        "cache",
        "client",
        "connections",
        "database_seconds",
        "method",
        "path",
        "request_id",
        "route",
        "seconds",
        "slowest_seconds",
        "slowest_statement",
        "span",
        "statements",
        "status",
        "trace_id",
        "waited_seconds",
    )

    def __init__(self, request_id: str, method: str, path: str, client: str | None = None) -> None:
        self.request_id = request_id
        self.method = method
        self.path = path
        self.client = client  # its address, as the trusted proxies tell it
        self.status = 500  # of whoever never answers
        self.route: str | None = None  # its template
        self.cache: str | None = None
        self.statements: list[str] = []
        self.connections = 0  # that it holds
        self.database_seconds = 0.0
        self.slowest_seconds = 0.0
        self.slowest_statement = ""
        self.waited_seconds = 0.0  # for a connection
        self.seconds = 0.0  # until it was answered
        self.span: Any = None  # where there are traces
        self.trace_id: str | None = None
        self._started = perf_counter()

    def spent(self, statement: str, seconds: float) -> None:
        """Note what a statement took."""
        self.database_seconds += seconds
        if seconds > self.slowest_seconds:
            self.slowest_statement, self.slowest_seconds = statement, seconds

    def part(self) -> "RequestContext":
        """Return an account for work that may go on after this request was answered."""
        part = RequestContext(self.request_id, self.method, self.path)
        part.span, part.trace_id = self.span, self.trace_id
        return part

    def add(self, part: "RequestContext") -> None:
        """Take over what such work has done."""
        self.statements += part.statements
        self.connections += part.connections
        self.waited_seconds += part.waited_seconds
        self.spent(part.slowest_statement, part.slowest_seconds)
        self.database_seconds += part.database_seconds - part.slowest_seconds

    def elapsed(self) -> float:
        """How many seconds it has taken so far."""
        return perf_counter() - self._started

    def stop_clock(self) -> None:
        """Stop the clock, once: a stream goes on for as long as somebody listens."""
        self.seconds = self.seconds or self.elapsed()


request_context: ContextVar[RequestContext | None] = ContextVar("request_context", default=None)


def request_id() -> str:
    """Return the id of the request that is being answered, or a dash."""
    current = request_context.get()
    return "-" if current is None else current.request_id
