"""Collects what the board shows: the metrics of all workers, added up, once a second.

The numbers are totals since the start of the service. The page computes rates from two of them.
"""

import asyncio
import socket
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import orjson
from anyio.to_thread import run_sync
from prometheus_client import CollectorRegistry
from prometheus_client.samples import Sample

from app.errors import Unavailable
from graceful_gunicorn import registry_of_all_workers

MAX_VIEWERS = 8  # per worker: each viewer keeps a connection open
INTERVAL_SECONDS = 1.0
# Totals of this age or less are sent to other viewers too.
REUSE_SECONDS = 0.5
# Probes, scrapes and the board itself are not traffic.
EXCLUDED_ROUTES = frozenset(("/", "/board/events", "/metrics", "/livez", "/readyz"))
SUMS = {
    "statements": "http_request_statements_sum",
    "requests_with_statements": "http_request_statements_count",
    "pool_max": "database_pool_connections_max",
    "pool_in_use": "database_pool_connections_in_use",
    "pool_waiting": "database_pool_waiting",
    "pool_refused": "database_pool_refused_total",
    "loop_lag": "event_loop_lag_seconds",
    "loop_blocked": "event_loop_blocked_total",
    "diagnostics": "guard_findings_total",
    "memory": "worker_resident_memory_bytes",
    "workers": "workers",
}

Totals = dict[str, Any]


class Board:
    """What the viewers of one process share: the places for them, and the latest totals."""

    def __init__(self, shutdown: asyncio.Event) -> None:
        self.viewers = 0
        self.shutdown = shutdown
        self._lock = asyncio.Lock()
        self._collected_at = float("-inf")
        self._totals = b""

    @contextmanager
    def viewer(self) -> Iterator[None]:
        """Take a place, or raise `Unavailable` if all are taken."""
        if self.viewers >= MAX_VIEWERS:
            raise Unavailable("Too many viewers.")
        self.viewers += 1
        try:
            yield
        finally:
            self.viewers -= 1

    async def latest(self) -> bytes:
        """Return the totals as JSON. Viewers that ask at about the same time share them."""
        async with self._lock:
            if time.monotonic() - self._collected_at > REUSE_SECONDS:
                # In a thread: another process may hold the lock of the metrics files.
                self._totals = await run_sync(collect)
                self._collected_at = time.monotonic()
            return self._totals

    async def wait(self) -> None:
        """Wait until the next full second, which is the same for all viewers, or the shutdown."""
        with suppress(TimeoutError):
            seconds = INTERVAL_SECONDS - time.time() % INTERVAL_SECONDS
            await asyncio.wait_for(self.shutdown.wait(), seconds)


def collect() -> bytes:
    """Return the totals of all workers as JSON."""
    return orjson.dumps(totals(registry_of_all_workers()))


def totals(registry: CollectorRegistry) -> Totals:
    """Read everything that the board shows.

    Times are in seconds. `bounds` are the upper bounds of the histogram `buckets`.
    """
    found: dict[str, list[Sample]] = defaultdict(list)
    for family in registry.collect():
        for sample in family.samples:
            found[sample.name].append(sample)
    buckets = [
        sample
        for sample in found["http_request_duration_seconds_bucket"]
        if sample.labels["route"] not in EXCLUDED_ROUTES
    ]
    bounds = sorted({float(sample.labels["le"]) for sample in buckets})
    return {
        "instance": socket.gethostname(),
        "at": time.time(),
        "bounds": bounds,
        "routes": _routes(buckets, bounds),
        "cache": {sample.labels["result"]: sample.value for sample in found["cache_reads_total"]},
        **{name: _sum(found[metric]) for name, metric in SUMS.items()},
    }


def _routes(buckets: Iterable[Sample], bounds: list[float]) -> dict[str, Totals]:
    """Return the buckets and the number of server errors of each method and route template."""
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
