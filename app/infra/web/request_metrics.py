"""Counts and times every request by method, route template and status: RED in one histogram.

Labels are few whatever is asked for: a path that is no route's has one label for all.
"""

from collections.abc import Callable
from functools import cache

from app.infra.observability.counting import counting, observing
from app.infra.observability.metrics import CACHE_READS, REQUESTS, STATEMENTS, exact
from app.infra.observability.request_context import RequestContext
from coherent_cache import Source

UNMATCHED = "unmatched"
METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
OTHER_METHOD = "other"

Labels = tuple[str, str | None, int]

# Children are looked up once for each combination: `labels()` costs ten times an observation.
_requests: dict[Labels, Callable[[float], None]] = {}
_cache_reads = {source: CACHE_READS.labels(source.lower().replace("-", "_")) for source in Source}


def count_request(current: RequestContext) -> None:
    """Count a request that was answered."""
    labels = (current.method, current.route, current.status)
    observe = _requests.get(labels) or _observing(labels)
    observe(exact(current.seconds))
    if current.cache is not None:
        _counting_reads(current.cache)()
    if current.statements:
        _observing_statements()(len(current.statements))


@cache
def _counting_reads(source: str) -> Callable[[], None]:
    return counting(_cache_reads[Source(source)])


@cache
def _observing_statements() -> Callable[[float], None]:
    return observing(STATEMENTS)


def _observing(labels: Labels) -> Callable[[float], None]:
    method, route, status = labels
    known = method if method in METHODS else OTHER_METHOD
    observe = observing(REQUESTS.labels(known, route or UNMATCHED, status))
    if known is method:  # what a client can make up is not kept
        _requests[labels] = observe
    return observe
