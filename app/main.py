"""The HTTP process, assembled: settings, resources, middleware, routes. Read this first."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, closing, nullcontext
from functools import partial

from anyio.to_thread import current_default_thread_limiter
from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.types import ASGIApp

from app import features
from app.api import include_routers
from app.infra.cache.settings import CacheSettings
from app.infra.database.connection_budget import APPLICATION_NAME
from app.infra.events.hub import open_event_hub
from app.infra.jobs.registry import load_jobs
from app.infra.lifespan import open_resources
from app.infra.observability.diagnostics import check_database_use
from app.infra.observability.logs import Log, open_log
from app.infra.observability.metrics import WORKERS
from app.infra.observability.settings import DiagnosticsSettings, LogSettings, MetricsSettings
from app.infra.observability.tracing import traces
from app.infra.places import Places
from app.infra.server.settings import ServerSettings
from app.infra.settings_base.section import Sections
from app.infra.shutdown import shutdown_event
from app.infra.web.batch_response import BatchLimits
from app.infra.web.body_limit import BodyLimitMiddleware
from app.infra.web.concurrency_limit import ConcurrencyLimiter, ConcurrencyLimitMiddleware
from app.infra.web.cors import CorsMiddleware
from app.infra.web.exports import Exports
from app.infra.web.head_requests import HeadRequestMiddleware
from app.infra.web.observe_requests import ObservationMiddleware, Observer
from app.infra.web.openapi import add_documentation
from app.infra.web.problems import add_problem_handlers
from app.infra.web.rate_limit import RateLimitMiddleware, RequestLimits
from app.infra.web.request_metrics import count_request
from app.infra.web.request_span import RequestSpanMiddleware
from app.infra.web.request_timeout import RequestTimeoutMiddleware
from app.infra.web.response_cache import ResponseCacheMiddleware
from app.infra.web.response_headers import (
    process_time,
    request_id_header,
    security_headers,
    server_timing,
)
from app.infra.web.root_path import RootPathMiddleware
from app.infra.web.routing import use_route_table
from app.infra.web.server_error import UnhandledErrorMiddleware
from app.infra.web.settings import CorsSettings, DocsSettings, LimitsSettings
from app.infra.web.telemetry import telemetry
from app.infra.web.trusted_hops import TrustedHopsMiddleware
from app.infra.web.trusted_hosts import TrustedHostsMiddleware
from app.infra.web.upload_queue import UploadQueueMiddleware
from app.settings import Settings, load_settings
from coherent_cache import NoCache
from graceful_gunicorn import available_cores

DESCRIPTION = """Errors are `application/problem+json` with a stable `code`.

Lists are read page by page: `next` and `prev` are opaque cursors, in the body and in the `Link`
header."""


def outer_middleware(settings: Sections, log: Log | None) -> list[Middleware]:
    """Return the middleware outside that of `add_middleware`, outermost first."""
    limits, server = settings[LimitsSettings], settings[ServerSettings]
    cors_settings = settings[CorsSettings]
    headers = [request_id_header, process_time]
    if settings[MetricsSettings].server_timing:
        headers.append(server_timing)
    middleware = []
    if server.trusted_hops:
        middleware.append(Middleware(TrustedHopsMiddleware, hops=server.trusted_hops))
    middleware.append(
        Middleware(
            ObservationMiddleware,
            headers=headers,
            fixed=security_headers(server.hsts_seconds),
            observers=observers(settings, log),
        )
    )
    if traces():
        middleware.append(Middleware(RequestSpanMiddleware))
    if cors_settings.origins:
        middleware.append(Middleware(CorsMiddleware, settings=cors_settings))
    middleware.append(Middleware(HeadRequestMiddleware))
    middleware.append(Middleware(UnhandledErrorMiddleware))
    if server.root_path:
        middleware.append(Middleware(RootPathMiddleware, root_path=server.root_path))
    if limits.hosts:
        middleware.append(Middleware(TrustedHostsMiddleware, hosts=limits.hosts))
    return middleware


def inner_middleware(settings: Sections, limiter: ConcurrencyLimiter) -> list[Middleware]:
    """Return the middleware inside that of `add_middleware`, outermost first."""
    limits = settings[LimitsSettings]
    return [
        Middleware(ResponseCacheMiddleware, settings=settings[CacheSettings]),
        Middleware(UploadQueueMiddleware, limit=limits.uploads),
        Middleware(RateLimitMiddleware),
        Middleware(
            BodyLimitMiddleware,
            limit_bytes=limits.body_bytes,
            most_values=limits.body_values,
            uploads=limits.uploads,
            upload_bytes=limits.upload_bytes,
        ),
        Middleware(ConcurrencyLimitMiddleware, limiter=limiter),
        Middleware(RequestTimeoutMiddleware, seconds=limits.request_seconds),
    ]


def observers(settings: Sections, log: Log | None) -> list[Observer]:
    """Return the callbacks that run after each request."""
    budget = settings[DiagnosticsSettings].statement_budget
    return [
        count_request,
        *([log.request] if log and settings[LogSettings].access else []),
        partial(check_database_use, statement_budget=budget),
    ]


class Service(FastAPI):
    """FastAPI with our own middleware around it, so that cache hits skip most of the stack.

    `add_middleware` places a middleware between `outer` and `inner`: outside the response cache,
    and inside request ids, metrics and the handling of unexpected exceptions.
    """

    outer: Sequence[Middleware] = ()
    inner: Sequence[Middleware] = ()

    def build_middleware_stack(self) -> ASGIApp:
        """Build FastAPI's own stack without the added middleware, and put all others around it."""
        added, self.user_middleware = self.user_middleware, []
        stack: ASGIApp = super().build_middleware_stack()
        self.user_middleware = added
        for middleware, args, options in reversed([*self.outer, *added, *self.inner]):
            stack = middleware(stack, *args, **options)
        return stack


def create_app(
    settings: Settings,
    log: Log | None = None,
    include: Callable[[FastAPI], None] = include_routers,
) -> FastAPI:
    """Assemble the application with the routes that `include` adds. It logs its requests to `log`.

    Nothing is opened before its lifespan begins.
    """
    load_jobs(features)
    sections = settings.sections()
    limits, server = sections[LimitsSettings], sections[ServerSettings]
    docs, limiter = sections[DocsSettings], ConcurrencyLimiter(limits)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        current_default_thread_limiter().total_tokens = server.threads
        app.state.route_table.index()  # takes long, so before there is anything that may be late
        closing_log = closing(log.writer) if log else nullcontext()
        with closing_log, shutdown_event() as shutdown:
            workers = settings.web_concurrency or available_cores()
            measures = limiter.measure, partial(WORKERS.set, 1)
            opened = open_resources(sections, APPLICATION_NAME, *measures, workers=workers)
            app.state.batch_limits = BatchLimits(
                shutdown, server.completion_seconds, server.write_seconds
            )
            app.state.exports = Exports(limits.exports, app.state.batch_limits)
            async with opened as resources:
                app.state.resources, app.state.cache_reader = resources, resources.reader
                await resources.rate_limiter.check(app.state.route_table.limits)
                app.state.request_limits = RequestLimits(
                    resources.rate_limiter, resources.access_tokens
                )
                async with open_event_hub(resources) as app.state.event_hub:
                    yield

    app = Service(
        title="FastAPI reference service",
        description=DESCRIPTION,
        version="0.1.0",
        lifespan=lifespan,
        openapi_url=None,  # `add_documentation` serves it
        docs_url=None,
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
        telemetry=telemetry(),
    )
    app.outer, app.inner = outer_middleware(sections, log), inner_middleware(sections, limiter)
    app.state.settings, app.state.concurrency_limiter = sections, limiter
    app.state.downloads = Places(
        "downloads", "downloads", most=limits.downloads, per_client=limits.downloads_per_client
    )
    app.state.environment = settings.environment
    app.state.cache_reader = NoCache()
    add_problem_handlers(app)
    include(app)
    use_route_table(app)
    if docs.enabled:
        add_documentation(app, server.root_path)
    return app


settings = load_settings()
log = open_log(settings.log, is_production=settings.is_production)
app = create_app(settings, log)
