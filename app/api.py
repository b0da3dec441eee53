"""Every route of the service: one line a feature, the hottest first."""

from fastapi import FastAPI

from app.features.auth import routes as auth
from app.features.board import routes as board
from app.features.comments import routes as comments
from app.features.posts import routes as posts
from app.features.users import routes as users
from app.infra import health
from app.infra.web import metrics_endpoint
from app.infra.web.request_retry import RetryOnce
from app.infra.web.routing import RouteTable

ROUTERS = (
    posts.router,
    comments.router,
    users.router,
    auth.router,
    health.router,
    metrics_endpoint.router,
    board.router,
)


def add_routes(app: FastAPI) -> None:
    """Add every route, so that the number of routes costs a request nothing.

    Without `include_router`: its nesting costs each request as much as a middleware, and the routes
    would lose their prefix where metrics look for it.
    """
    app.router.routes[:0] = [route for router in ROUTERS for route in router.routes]
    app.state.route_table = RouteTable(app.router)
    app.router.middleware_stack = RetryOnce(app.state.route_table)
