"""`/metrics`, for Prometheus: on a port of its own, or for the networks that may see it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address, ip_network

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from app.errors import NotFound
from app.infra.server.metrics_files import FOLDER, metrics_lock
from app.sections import MetricsSettings

router = APIRouter(include_in_schema=False)


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Answer the sum of all workers. Whoever may not see it is told that there is no such thing."""
    settings: MetricsSettings = request.app.state.resources.settings.metrics
    if not may_see(request, settings):
        raise NotFound("Not Found.")
    with registry_of_all() as registry:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


def may_see(request: Request, settings: MetricsSettings) -> bool:
    """Whether whoever asks is shown what is known of the inside."""
    if not settings.enabled:
        return False
    if settings.port:
        server = request.scope.get("server")
        return server is not None and server[1] == settings.port
    if request.client is None:
        return False
    address = ip_address(request.client.host)
    return any(address in ip_network(network) for network in settings.networks.split(","))


@contextmanager
def registry_of_all() -> Iterator[CollectorRegistry]:
    """Return where the numbers of all workers can be collected, inside of the block."""
    if FOLDER not in os.environ:  # one process, such as that of `make dev`
        yield REGISTRY
        return
    registry = CollectorRegistry()
    MultiProcessCollector(registry)
    with metrics_lock(exclusive=False):
        yield registry
