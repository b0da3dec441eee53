"""Sums the metrics of all workers for one scrape."""

import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from graceful_gunicorn.multiprocess_metrics import FOLDER, metrics_lock
from graceful_gunicorn.shared_state import SHARED_STATE

logger = logging.getLogger(__name__)


class MetricsFileCollector(Collector):
    """Sums the metrics that the workers keep in files.

    A file that a worker has created but not yet written is skipped.
    """

    def collect(self) -> Iterable[Metric]:
        """Read every file in the folder."""
        files = Path(os.environ[FOLDER]).glob("*.db")
        written = [str(file) for file in files if file.stat().st_size]
        sums: Iterable[Metric] = MultiProcessCollector.merge(written)
        return sums


class SharedStateCollector(Collector):
    """Reports the metrics in shared memory, which must be available without any file."""

    def collect(self) -> Iterable[Metric]:
        """Return the sums over all workers."""
        yield CounterMetricFamily(
            "metrics_lost",
            "Series that found no room on the disk since the start.",
            value=SHARED_STATE.lost_metrics,
        )
        yield GaugeMetricFamily(
            "metrics_missing",
            "Series of the current workers that found no room on the disk.",
            value=SHARED_STATE.missing_metrics,
        )
        yield GaugeMetricFamily(
            "worker_boots_failed",
            "Worker boots that failed in a row; 0 when the last boot succeeded.",
            value=SHARED_STATE.failed_boots,
        )


@contextmanager
def registry_of_all_workers() -> Iterator[CollectorRegistry]:
    """Yield a registry with the sums over all workers. Collect from it inside of the block.

    If the folder cannot be read, the registry contains only the metrics in shared memory.
    """
    if FOLDER not in os.environ:  # there is only one process, for example in `make dev`
        yield REGISTRY
        return
    registry = CollectorRegistry()
    registry.register(SharedStateCollector())
    with ExitStack() as stack:
        try:
            stack.enter_context(metrics_lock(exclusive=False))
            registry.register(MetricsFileCollector())
        except OSError:
            logger.exception("The folder of the metrics cannot be read")
        yield registry
