"""The request context: facts about one request, for its headers, metrics and log line."""

from contextvars import ContextVar
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any


@dataclass(slots=True, eq=False)
class RequestContext:
    """The context of one request. Each layer adds what it knows."""

    request_id: str
    method: str
    path: str
    client: str | None = None  # the IP address, as reported by trusted proxies
    status: int = 500  # until a response starts
    has_started: bool = False  # whether the response has started
    is_complete: bool = False  # whether all of the response was sent
    deadline: float | None = None  # by the clock of the event loop, until the response starts
    may_retry: bool = False  # True during the first attempt, until it commits
    has_place: bool = False  # whether it is a stream that another limit than LIMITS_STREAMS counts
    headers: tuple[tuple[bytes, bytes], ...] = ()  # of rate limits, for any response
    shown_tags: set[str] | None = None  # the tags of a response that is loaded for the cache
    route: str | None = None  # the path template
    cache: str | None = None  # the value of the X-Cache header
    seconds: float = 0.0  # the duration, once `stop_clock` was called
    statements: list[str] = field(default_factory=list)  # until the response starts
    streamed_statements: int = 0  # how many followed, because a stream may last for hours
    # By SQLAlchemy's execution context: the start time and the span.
    running_statements: dict[object, tuple[float, Any]] = field(default_factory=dict)
    database_seconds: float = 0.0
    slowest_seconds: float = 0.0
    slowest_statement: str = ""
    connections: int = 0  # how many it holds at this moment
    pool_wait_seconds: float = 0.0
    upstream_seconds: float = 0.0  # of requests to other services
    slowest_upstream_seconds: float = 0.0
    slowest_upstream: str = ""  # its name
    span: Any = None  # None while traces are off
    trace_id: str | None = None
    _started: float = field(default_factory=perf_counter)

    @property
    def statement_count(self) -> int:
        return len(self.statements) + self.streamed_statements

    def add_database_time(self, statement: str, seconds: float) -> None:
        self.database_seconds += seconds
        if seconds > self.slowest_seconds:
            self.slowest_statement, self.slowest_seconds = statement, seconds

    def add_upstream_time(self, name: str, seconds: float) -> None:
        self.upstream_seconds += seconds
        if seconds > self.slowest_upstream_seconds:
            self.slowest_upstream, self.slowest_upstream_seconds = name, seconds

    def child(self) -> "RequestContext":
        """Return a context for a part of the work that may outlive this request."""
        child = RequestContext(self.request_id, "GET", self.path)
        child.span, child.trace_id = self.span, self.trace_id
        return child

    def merge(self, child: "RequestContext") -> None:
        """Add what was recorded in a child."""
        self.statements += child.statements
        self.connections += child.connections
        self.pool_wait_seconds += child.pool_wait_seconds
        self.add_upstream_time(child.slowest_upstream, child.slowest_upstream_seconds)
        self.upstream_seconds += child.upstream_seconds - child.slowest_upstream_seconds
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
