"""Counts and times every request by method, route template and status.

The labels have few values, whatever clients send: all paths that match no route share one label.
"""

from prometheus_client import Histogram

from app.infra.observability.metrics import CACHE_READS, REQUESTS, STATEMENTS, exact
from app.infra.observability.request_context import RequestContext
from coherent_cache import Source

UNMATCHED = "unmatched"
METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
OTHER_METHOD = "other"

Labels = tuple[str, str | None, int]

# `labels()` costs about as much as an observation, so each combination is looked up only once.
_requests: dict[Labels, Histogram] = {}
_cache_reads = {
    source.value: CACHE_READS.labels(source.lower().replace("-", "_")) for source in Source
}


def count_request(current: RequestContext) -> None:
    """Count a request that has been answered."""
    labels = (current.method, current.route, current.status)
    requests = _requests.get(labels) or _find_requests(labels)
    requests.observe(exact(current.seconds))
    if current.cache is not None:
        _cache_reads[current.cache].inc()
    if current.statement_count:
        STATEMENTS.observe(current.statement_count)


def _find_requests(labels: Labels) -> Histogram:
    method, route, status = labels
    known = method if method in METHODS else OTHER_METHOD
    requests = REQUESTS.labels(known, route or UNMATCHED, status)
    if known is method:  # a client can invent any number of methods, which must not fill the memory
        _requests[labels] = requests
    return requests
