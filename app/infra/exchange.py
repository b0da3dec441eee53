"""One request and its answer, as those who observe it see them: headers, metrics, logs, guards."""

from contextvars import ContextVar
from time import perf_counter


class Exchange:
    """Filled in as the request goes down and its answer comes up. Nothing in it is shared."""

    __slots__ = (
        "_answered",
        "cache",
        "connections",
        "database_seconds",
        "request_id",
        "route",
        "started",
        "statements",
        "status",
    )

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id
        self.started = perf_counter()
        self.status = 500  # of whoever never answers
        self.route: str | None = None
        self.cache: str | None = None
        self.statements: list[str] = []
        self.connections = 0  # that it holds
        self.database_seconds = 0.0
        self._answered: float | None = None

    @property
    def seconds(self) -> float:
        """How long it has taken so far."""
        return (self._answered or perf_counter()) - self.started

    def answered(self) -> None:
        """Stop the clock: what follows goes on for as long as somebody listens."""
        self._answered = perf_counter()


exchange: ContextVar[Exchange | None] = ContextVar("exchange", default=None)


def request_id() -> str:
    """Return the id of the request that is being answered, or a dash."""
    current = exchange.get()
    return "-" if current is None else current.request_id
