"""Sums the metrics of all workers for one scrape."""

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from graceful_gunicorn.multiprocess_metrics import FOLDER
from graceful_gunicorn.shared_state import SHARED_STATE


class MetricsFileCollector(Collector):
    """Sums the metrics that the workers keep in files.

    A file that a worker has created but not yet written is skipped. The files are added in a fixed
    order, because otherwise rounding errors could make a sum smaller than at the last scrape.
    """

    def collect(self) -> Iterable[Metric]:
        """Read every file in the folder."""
        written = []
        for file in sorted(Path(os.environ[FOLDER]).glob("*.db")):
            with suppress(FileNotFoundError):  # a worker has exited
                written += [str(file)] * (file.stat().st_size > 0)
        sums: Iterable[Metric] = MultiProcessCollector.merge(written)
        return sums


class SharedStateCollector(Collector):
    """Reports the metrics in shared memory, which must be available without any file."""

    def collect(self) -> Iterable[Metric]:
        """Return the sums over all workers."""
        yield CounterMetricFamily(
            "metrics_lost",
            "Series that found no room on the disk since the start.",
            value=sum(slot.lost_metrics for slot in SHARED_STATE.slots()),
        )
        yield GaugeMetricFamily(
            "metrics_missing",
            "Series of the current workers that found no room on the disk.",
            value=sum(slot.missing_metrics for slot in SHARED_STATE.slots()),
        )
        yield GaugeMetricFamily(
            "worker_boots_failed",
            "Worker boots that failed in a row; 0 when the last boot succeeded.",
            value=SHARED_STATE.failed_boots,
        )


def registry_of_all_workers() -> CollectorRegistry:
    """Return a registry with the sums over all workers.

    If the folder cannot be read, it contains only the metrics in shared memory.
    """
    if FOLDER not in os.environ:  # there is only one process, for example in `make dev`
        return REGISTRY
    registry = CollectorRegistry()
    registry.register(SharedStateCollector())
    registry.register(MetricsFileCollector())
    return registry
