"""Counts and times every request by method, route template and status: RED in one histogram.

Labels are few whatever is asked for: a path that is no route's has one label for all.
"""

from prometheus_client import Counter, Histogram

from app.infra.cache.read_through import Source
from app.infra.exchange import Exchange
from app.infra.metrics import CACHE_READS, REQUESTS, STATEMENTS, exact

UNMATCHED = "unmatched"
METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
OTHER_METHOD = "other"

Labels = tuple[str, str | None, int]

# Children are looked up once for each combination: `labels()` costs ten times an observation.
_requests: dict[Labels, Histogram] = {}
_cache_reads: dict[str, Counter] = {
    source: CACHE_READS.labels(source.lower().replace("-", "_")) for source in Source
}


def count_request(current: Exchange) -> None:
    """Count a request that was answered."""
    labels = (current.method, current.route, current.status)
    (_requests.get(labels) or _child(labels)).observe(exact(current.seconds))
    if current.cache is not None:
        _cache_reads[current.cache].inc()
    if current.statements:
        STATEMENTS.observe(len(current.statements))


def _child(labels: Labels) -> Histogram:
    method, route, status = labels
    known = method if method in METHODS else OTHER_METHOD
    child = REQUESTS.labels(known, route or UNMATCHED, status)
    if known is method:  # what a client can make up is not kept
        _requests[labels] = child
    return child
