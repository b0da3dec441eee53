"""The metrics of all workers, added up and few enough to be sent to a browser each second.

They are totals since the start: whoever has two of them knows the rates between.
"""

import time
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.samples import Sample

# Whoever looks, and whoever asks whether we live, is no traffic.
NOT_COUNTED = frozenset(("/", "/board/events", "/metrics", "/livez", "/readyz"))

Totals = dict[str, Any]


def totals(registry: CollectorRegistry) -> Totals:
    """Read all that the board shows. Times are seconds, `bounds` the upper ones of `buckets`."""
    found: dict[str, list[Sample]] = defaultdict(list)
    for family in registry.collect():
        for sample in family.samples:
            found[sample.name].append(sample)
    buckets = [
        sample
        for sample in found["http_request_duration_seconds_bucket"]
        if sample.labels["route"] not in NOT_COUNTED
    ]
    bounds = sorted({float(sample.labels["le"]) for sample in buckets})
    return {
        "at": time.time(),
        "bounds": bounds,
        "routes": _routes(buckets, bounds),
        "cache": {sample.labels["result"]: sample.value for sample in found["cache_reads_total"]},
        **{name: _sum(found[metric]) for name, metric in SUMS.items()},
    }


SUMS = {
    "statements": "http_request_statements_sum",
    "asked_database": "http_request_statements_count",
    "pool_max": "database_pool_connections_max",
    "pool_in_use": "database_pool_connections_in_use",
    "pool_waiting": "database_pool_waiting",
    "pool_refused": "database_pool_refused_total",
    "loop_lag": "event_loop_lag_seconds",
    "loop_blocked": "event_loop_blocked_total",
    "findings": "guard_findings_total",
    "memory": "worker_resident_memory_bytes",
    "workers": "workers",
}


def _routes(buckets: Iterable[Sample], bounds: list[float]) -> dict[str, Totals]:
    """Return, by method and template, how many were at most as long as each bound, and failed."""
    routes: dict[str, Totals] = {}
    for sample in buckets:
        labels = sample.labels
        name = f"{labels['method']} {labels['route']}"
        route = routes.setdefault(name, {"buckets": [0.0] * len(bounds), "failed": 0.0})
        route["buckets"][bounds.index(float(labels["le"]))] += sample.value
        if labels["le"] == "+Inf" and labels["status"] >= "5":
            route["failed"] += sample.value
    return routes


def _sum(samples: Iterable[Sample]) -> float:
    return sum(sample.value for sample in samples)
