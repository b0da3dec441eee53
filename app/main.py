"""The HTTP process, assembled: settings, resources, middleware, routes. Read this first."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.middleware import Middleware

from app.api import add_routes
from app.infra.logs import configure_logging
from app.infra.resources import open_resources
from app.infra.web.catch_all import CatchAllMiddleware
from app.infra.web.problems import add_problem_handlers
from app.infra.web.request_id import RequestIdMiddleware
from app.settings import Settings, load_settings

# Outermost first. All of them are pure ASGI.
MIDDLEWARE = (RequestIdMiddleware, CatchAllMiddleware)


def create_app(settings: Settings) -> FastAPI:
    """Assemble the application. Nothing is opened before its lifespan begins."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with open_resources(settings, application_name="app") as resources:
            app.state.resources = resources
            yield

    app = FastAPI(
        title="FastAPI reference service",
        version="0.1.0",
        lifespan=lifespan,
        middleware=[Middleware(layer) for layer in MIDDLEWARE],
        openapi_url="/openapi.json" if settings.docs.enabled else None,
        redoc_url=None,
        redirect_slashes=False,
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    add_routes(app)
    add_problem_handlers(app)
    return app


settings = load_settings()
configure_logging(settings.log)
app = create_app(settings)
