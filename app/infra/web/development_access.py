"""Who may see pages that are for the developers alone."""

from typing import Annotated

from fastapi import Depends, Request

from app.errors import NotFound
from app.infra.observability.settings import MetricsSettings
from app.infra.web.metrics_endpoint import may_see_metrics
from app.infra.web.section_dependency import section


async def require_developer(
    request: Request, metrics: Annotated[MetricsSettings, Depends(section(MetricsSettings))]
) -> None:
    """Raise `NotFound` in production, and for clients that may not see the metrics."""
    is_development = request.app.state.environment == "development"
    if not is_development or not may_see_metrics(request, metrics):
        raise NotFound("Not Found.")
