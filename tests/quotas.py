"""Quotas for tests that are not about rate limits."""

from fastapi import FastAPI

from app.api import include_routers
from app.infra.rate_limits.limit import Limit
from app.infra.web.routing import RouteTable


def declared_limits() -> dict[str, Limit]:
    """Return the limits of all routes of the service, by name."""
    app = FastAPI()
    include_routers(app)
    table = RouteTable(app.router)
    table.index()
    return table.limits


def unreachable_quotas() -> str:
    """Return a value of RATE_LIMITS_QUOTAS that names every limit, because `*` does not."""
    return ",".join(f"{name}=1000000/1" for name in declared_limits())
