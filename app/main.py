"""The HTTP process, assembled: settings, resources, middleware, routes. Read this first."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing, nullcontext
from functools import partial
from typing import NoReturn

from anyio.to_thread import current_default_thread_limiter
from fastapi import FastAPI
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.types import ASGIApp

from app.api import add_routes
from app.features.board.routes import lifespan as board_lifespan
from app.infra.database.connection_budget import APPLICATION_NAME
from app.infra.health import open_readiness
from app.infra.lifespan import open_resources
from app.infra.observability.diagnostics import check_database_use
from app.infra.observability.logs import Log, open_log
from app.infra.observability.settings import DiagnosticsSettings, LogSettings, MetricsSettings
from app.infra.observability.tracing import telemetry, traces
from app.infra.server.settings import ServerSettings
from app.infra.settings_base.section import Sections
from app.infra.web.body_limit import BodyLimitMiddleware
from app.infra.web.concurrency_limit import ConcurrencyLimiter, ConcurrencyLimitMiddleware
from app.infra.web.cors import CorsMiddleware
from app.infra.web.head_requests import HeadRequestMiddleware
from app.infra.web.observe_requests import ObservationMiddleware, Observer
from app.infra.web.openapi import add_documentation
from app.infra.web.problems import add_problem_handlers
from app.infra.web.query_parameters import StrictRoute
from app.infra.web.request_id import request_id_header
from app.infra.web.request_metrics import count_request
from app.infra.web.request_span import RequestSpanMiddleware
from app.infra.web.request_timeout import RequestTimeoutMiddleware
from app.infra.web.response_cache import ResponseCacheMiddleware
from app.infra.web.root_path import RootPathMiddleware
from app.infra.web.security_headers import security_headers
from app.infra.web.server_error import UnhandledErrorMiddleware
from app.infra.web.settings import CorsSettings, DocsSettings, LimitsSettings
from app.infra.web.timing import process_time, server_timing
from app.infra.web.trusted_hosts import TrustedHostsMiddleware
from app.settings import Settings, load_settings

DESCRIPTION = """Users, posts and comments.

Errors are `application/problem+json` with a stable `code`. Lists are read page by page: `next` and
`prev` are opaque cursors, in the body and in the `Link` header."""

Layer = Callable[[ASGIApp], ASGIApp]


def layers(settings: Sections, limiter: ConcurrencyLimiter, log: Log | None) -> tuple[Layer, ...]:
    """Return what stands around the routes, outermost first. All of them are pure ASGI."""
    limits, server = settings[LimitsSettings], settings[ServerSettings]
    has_server_timing = settings[MetricsSettings].server_timing
    return (
        partial(
            ObservationMiddleware,
            headers=[
                request_id_header,
                process_time,
                *([server_timing] if has_server_timing else []),
            ],
            fixed=security_headers(server.hsts_seconds),
            observers=observers(settings, log),
        ),
        *([RequestSpanMiddleware] if traces() else []),
        *(
            [partial(CorsMiddleware, settings=settings[CorsSettings])]
            if settings[CorsSettings].origins
            else []
        ),
        UnhandledErrorMiddleware,
        *([partial(RootPathMiddleware, root_path=server.root_path)] if server.root_path else []),
        *([partial(TrustedHostsMiddleware, hosts=limits.hosts)] if limits.hosts else []),
        HeadRequestMiddleware,
        ResponseCacheMiddleware,
        partial(BodyLimitMiddleware, limit_bytes=limits.body_bytes, most_values=limits.body_values),
        partial(ConcurrencyLimitMiddleware, limiter=limiter),
        partial(RequestTimeoutMiddleware, seconds=limits.request_seconds),
    )


def observers(settings: Sections, log: Log | None) -> list[Observer]:
    """Return who is told of every request that was answered."""
    budget = settings[DiagnosticsSettings].statement_budget
    return [
        count_request,
        *([log.request] if log and settings[LogSettings].access else []),
        partial(check_database_use, statement_budget=budget),
    ]


class Service(FastAPI):
    """FastAPI inside of our own layers, so that a cached answer costs none of its layers."""

    layers: tuple[Layer, ...] = ()

    def add_middleware(self, *_: object, **__: object) -> NoReturn:
        """Refuse: it would stand inside of the cache, and be kept for everybody."""
        raise TypeError("Add the layer to `layers` in app/main.py, before ResponseCacheMiddleware.")

    def build_middleware_stack(self) -> ASGIApp:
        """Put ours around FastAPI's, and in the place of its outermost.

        That one answers an exception and raises it again: the server would close the connection.
        """
        stack: ASGIApp = super().build_middleware_stack()
        assert isinstance(stack, ServerErrorMiddleware)
        stack = stack.app
        for layer in reversed(self.layers):
            stack = layer(stack)
        return stack


def create_app(settings: Settings, log: Log | None = None) -> FastAPI:
    """Assemble the application, which notes its requests in `log`.

    Nothing is opened before its lifespan begins.
    """
    sections = settings.sections()
    limiter = ConcurrencyLimiter(sections[LimitsSettings])
    docs = sections[DocsSettings]

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        current_default_thread_limiter().total_tokens = sections[ServerSettings].threads
        with closing(log.writer) if log else nullcontext():
            async with (
                open_resources(sections, APPLICATION_NAME, limiter.measure) as resources,
                board_lifespan(app),
            ):
                app.state.resources = resources
                app.state.cache_reader = resources.reader
                with open_readiness(resources.database, resources.cache) as readiness:
                    app.state.readiness = readiness
                    yield

    app = Service(
        title="FastAPI reference service",
        description=DESCRIPTION,
        version="0.1.0",
        lifespan=lifespan,
        openapi_url="/openapi.json" if docs.enabled else None,
        docs_url=None,
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
        redirect_slashes=False,
        telemetry=telemetry(),
    )
    app.router.route_class = StrictRoute
    app.layers = layers(sections, limiter, log)
    app.state.settings, app.state.concurrency_limiter = sections, limiter
    add_routes(app)
    add_problem_handlers(app)
    if docs.enabled:
        add_documentation(app, sections[ServerSettings].root_path)
    return app


settings = load_settings()
app = create_app(settings, open_log(settings.log, is_production=settings.is_production))
