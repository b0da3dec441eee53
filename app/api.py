"""Every route of the service: one line a feature, the hottest first."""

from starlette.routing import BaseRoute

from app.features.auth import routes as auth
from app.features.comments import routes as comments
from app.features.posts import routes as posts
from app.features.users import routes as users
from app.infra import health

ROUTERS = (
    posts.router,
    comments.router,
    users.router,
    auth.router,
    health.router,
)

# Flat, without `include_router`: its nesting costs each request as much as a middleware, and the
# routes would lose their prefix where metrics look for it.
ROUTES: list[BaseRoute] = [route for router in ROUTERS for route in router.routes]
