"""What is known about one request and its response, for headers, metrics, log lines and reports."""

from contextvars import ContextVar
from time import perf_counter
from typing import Any


class RequestContext:
    """The context of one request. Each layer adds what it knows."""

    __slots__ = (
        "_started",
        "cache",
        "client",
        "connections",
        "database_seconds",
        "may_retry",
        "method",
        "path",
        "pool_wait_seconds",
        "request_id",
        "route",
        "running_statements",
        "seconds",
        "shown_tags",
        "slowest_seconds",
        "slowest_statement",
        "span",
        "statements",
        "status",
        "trace_id",
    )

    def __init__(self, request_id: str, method: str, path: str, client: str | None = None) -> None:
        self.request_id = request_id
        self.method = method
        self.path = path
        self.client = client  # the IP address, as reported by trusted proxies
        self.status = 500  # until a response starts
        self.may_retry = False  # True during the first attempt, until it commits
        self.shown_tags: set[str] | None = None  # of an answer that is being loaded for the cache
        self.route: str | None = None  # the path template
        self.cache: str | None = None  # the value of the X-Cache header
        self.seconds = 0.0  # the duration, once `stop_clock` was called
        self.statements: list[str] = []
        # By SQLAlchemy's execution context: the start time and the span.
        self.running_statements: dict[object, tuple[float, Any]] = {}
        self.database_seconds = 0.0
        self.slowest_seconds = 0.0
        self.slowest_statement = ""
        self.connections = 0  # how many it holds at this moment
        self.pool_wait_seconds = 0.0
        self.span: Any = None  # None while traces are off
        self.trace_id: str | None = None
        self._started = perf_counter()

    def add_database_time(self, statement: str, seconds: float) -> None:
        self.database_seconds += seconds
        if seconds > self.slowest_seconds:
            self.slowest_statement, self.slowest_seconds = statement, seconds

    def child(self) -> "RequestContext":
        """Return a context for a part of the work that may outlive this request."""
        child = RequestContext(self.request_id, self.method, self.path)
        child.span, child.trace_id = self.span, self.trace_id
        return child

    def merge(self, child: "RequestContext") -> None:
        """Add what was recorded in a child."""
        self.statements += child.statements
        self.connections += child.connections
        self.pool_wait_seconds += child.pool_wait_seconds
        self.add_database_time(child.slowest_statement, child.slowest_seconds)
        self.database_seconds += child.database_seconds - child.slowest_seconds

    def elapsed_seconds(self) -> float:
        return perf_counter() - self._started

    def stop_clock(self) -> None:
        """Set the duration, unless it is set. A stream calls this before it ends."""
        self.seconds = self.seconds or self.elapsed_seconds()


request_context: ContextVar[RequestContext | None] = ContextVar("request_context", default=None)


def request_id() -> str:
    """Return the id of the current request, or a dash outside a request."""
    current = request_context.get()
    return "-" if current is None else current.request_id
