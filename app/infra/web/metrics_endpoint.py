"""Serves `/metrics` on METRICS_PORT, or to METRICS_NETWORKS."""

from ipaddress import ip_address, ip_network
from typing import Annotated

from anyio.to_thread import run_sync
from fastapi import APIRouter, Depends, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from app.errors import NotFound
from app.infra.observability.settings import MetricsSettings
from app.infra.web.section_dependency import section
from graceful_gunicorn import registry_of_all_workers

router = APIRouter(include_in_schema=False)


@router.get("/metrics")
async def metrics(
    request: Request, settings: Annotated[MetricsSettings, Depends(section(MetricsSettings))]
) -> Response:
    """Return the metrics of all workers, or 404 for clients that may not see them."""
    if not may_see_metrics(request, settings):
        raise NotFound("Not Found.")
    # In a thread: it takes some time, and another process may hold the lock of the files.
    return Response(await run_sync(_exposition), media_type=CONTENT_TYPE_LATEST)


def may_see_metrics(request: Request, settings: MetricsSettings) -> bool:
    if not settings.enabled:
        return False
    if settings.port:
        server = request.scope.get("server")
        return server is not None and server[1] == settings.port
    return is_in_networks(request, settings.networks)


def is_in_networks(request: Request, networks: str) -> bool:
    """Return whether the client has an address in METRICS_NETWORKS."""
    try:
        address = ip_address(request.client.host if request.client else "")
    except ValueError:  # an address that comes from a proxy's header can be any text
        return False
    # On a socket for both protocols, 127.0.0.1 appears as ::ffff:127.0.0.1.
    address = getattr(address, "ipv4_mapped", None) or address
    return any(address in ip_network(network) for network in networks.split(","))


def _exposition() -> bytes:
    return generate_latest(registry_of_all_workers())
