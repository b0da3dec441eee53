"""`/v1/dashboard`: what a user sees first, gathered from several sources."""

from fastapi import APIRouter, Request

from app.features.dashboard import service
from app.features.dashboard.schemas import DashboardRead
from app.features.dashboard.service import Dashboard
from app.features.users.dependencies import CurrentUser
from app.infra.dependencies import Resources
from app.infra.web.client_leaving import until_client_leaves
from app.infra.web.openapi import problems

router = APIRouter(prefix="/v1/dashboard", tags=["dashboard"])


@router.get("", response_model=DashboardRead, responses=problems(401))
async def read_dashboard(request: Request, user: CurrentUser, resources: Resources) -> Dashboard:
    """Return the profile, the newest posts and the statistics of the caller.

    A part that cannot be read is null, and `degraded` names it. `upstream` comes from another
    service, and is also null if there is none.
    """
    return await until_client_leaves(request, service.read_dashboard(resources, user))
