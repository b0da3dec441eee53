"""`/metrics`, for Prometheus: on a port of its own, or for the networks that may see it."""

import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import ip_address, ip_network
from pathlib import Path

from anyio.to_thread import run_sync
from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from app.errors import NotFound
from app.infra.server.load_table import TABLE
from app.infra.server.metrics_files import FOLDER, metrics_lock
from app.sections import MetricsSettings

logger = logging.getLogger(__name__)

router = APIRouter(include_in_schema=False)


class FilesCollector(Collector):
    """Adds up what workers have in their files, but for one that is only about to be made."""

    def collect(self) -> Iterable[Metric]:
        """Return the sums."""
        files = Path(os.environ[FOLDER]).glob("*.db")
        made = [str(file) for file in files if file.stat().st_size]
        sums: Iterable[Metric] = MultiProcessCollector.merge(made)
        return sums


class TableCollector(Collector):
    """Tells what is counted in shared memory, because it has to be known without any file."""

    def collect(self) -> Iterable[Metric]:
        """Return the numbers of all workers."""
        lost, missing = TABLE.lost_metrics, TABLE.missing_metrics
        yield CounterMetricFamily("metrics_lost", "Series that found no room.", value=lost)
        yield GaugeMetricFamily("metrics_missing", "Series that are missing now.", value=missing)
        yield GaugeMetricFamily(
            "worker_boots_failed",
            "Boots of workers that failed in a row; 0 when the last one succeeded.",
            value=TABLE.failed_boots,
        )


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Answer the sum of all workers. Whoever may not see it is told that there is no such thing."""
    settings: MetricsSettings = request.app.state.resources.settings.metrics
    if not may_see(request, settings):
        raise NotFound("Not Found.")
    # In a thread: it takes a while, and another process may have the lock of the files.
    return Response(await run_sync(_exposition), media_type=CONTENT_TYPE_LATEST)


def may_see(request: Request, settings: MetricsSettings) -> bool:
    """Whether whoever asks is shown what is known of the inside."""
    if not settings.enabled:
        return False
    if settings.port:
        server = request.scope.get("server")
        return server is not None and server[1] == settings.port
    try:
        address = ip_address(request.client.host if request.client else "")
    except ValueError:  # a proxy's header says where it is from, and that can be any text
        return False
    # On a socket for both families, 127.0.0.1 is ::ffff:127.0.0.1.
    seen = getattr(address, "ipv4_mapped", None) or address
    return any(seen in ip_network(network) for network in settings.networks.split(","))


def _exposition() -> bytes:
    with registry_of_all() as registry:
        return generate_latest(registry)


@contextmanager
def registry_of_all() -> Iterator[CollectorRegistry]:
    """Return where the numbers of all workers can be collected, inside of the block."""
    if FOLDER not in os.environ:  # one process, such as that of `make dev`
        yield REGISTRY
        return
    registry = CollectorRegistry()
    registry.register(TableCollector())
    with ExitStack() as stack:
        try:
            stack.enter_context(metrics_lock(exclusive=False))
            registry.register(FilesCollector())
        except OSError:
            logger.exception("The folder of the metrics cannot be read")
        yield registry
