"""Counts and times every request by method, route template and status: RED in one histogram.

Labels are few whatever is asked for: a path that is no route's has one label for all.
"""

from prometheus_client import Counter, Histogram
from starlette.types import ASGIApp, Receive, Scope, Send

from app.infra.cache.read_through import Source
from app.infra.exchange import exchange
from app.infra.metrics import CACHE_READS, REQUESTS, STATEMENTS

UNMATCHED = "unmatched"
METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
OTHER_METHOD = "other"


class MetricsMiddleware:
    """Pure ASGI. Children of the histogram are looked up once for each combination of labels."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._children: dict[tuple[str, str | None, int], Histogram] = {}
        self._cache_reads: dict[str, Counter] = {
            source: CACHE_READS.labels(source.lower().replace("-", "_")) for source in Source
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        current = exchange.get()
        if scope["type"] != "http" or current is None:
            await self.app(scope, receive, send)
            return
        method = scope["method"]
        try:
            await self.app(scope, receive, send)
        finally:
            current.route = current.route or route_of(scope)
            labels = (method, current.route, current.status)
            child = self._children.get(labels) or self._child(labels)
            child.observe(current.seconds)
            if current.cache is not None:
                self._cache_reads[current.cache].inc()
            if current.statements:
                STATEMENTS.observe(len(current.statements))

    def _child(self, labels: tuple[str, str | None, int]) -> Histogram:
        method, route, status = labels
        known = method if method in METHODS else OTHER_METHOD
        child = REQUESTS.labels(known, route or UNMATCHED, status)
        if known is method:  # what a client can make up is not kept
            self._children[labels] = child
        return child


def route_of(scope: Scope) -> str | None:
    """Return the template of the route that a request was sent to."""
    return getattr(scope.get("route"), "path_format", None)
