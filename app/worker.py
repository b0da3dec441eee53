"""The job process, assembled like the HTTP process in main.py: `python -m app.worker`.

It serves /readyz, /livez and /metrics on METRICS_PORT, or on a free port if that is 0.
"""

import logging
import signal
import sys

if __name__ == "__main__":
    # Until `serve` installs its own handlers. In a container, this is process 1, for which Linux
    # ignores SIGTERM while there is no handler. A shell lets its background jobs ignore SIGINT.
    for early in (signal.SIGINT, signal.SIGTERM):
        signal.signal(early, lambda *_: sys.exit(0))

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, nullcontext

import uvicorn
from anyio.to_thread import current_default_thread_limiter
from fastapi import APIRouter, FastAPI

from app import features
from app.infra import health
from app.infra.database.connection_budget import JOBS_APPLICATION_NAME
from app.infra.jobs.registry import load_jobs
from app.infra.jobs.worker import running_jobs
from app.infra.lifespan import open_resources
from app.infra.mail.settings import NO_MAIL, MailSettings
from app.infra.observability.logs import Log, open_log
from app.infra.web import metrics_endpoint
from app.infra.web.problems import add_problem_handlers
from app.infra.web.telemetry import telemetry
from app.settings import Settings, load_settings

logger = logging.getLogger(__name__)

CLOSING_SECONDS = 2  # for requests to the pages above


@asynccontextmanager
async def run_jobs(app: FastAPI) -> AsyncIterator[None]:
    async def is_ready() -> bool:
        ready, _ = await app.state.readiness.report()
        return bool(ready)

    async with running_jobs(app.state.resources, JOBS_APPLICATION_NAME, is_ready):
        yield


def create_worker(settings: Settings, log: Log | None = None) -> FastAPI:
    """Assemble the process. Nothing is opened before its lifespan begins."""
    load_jobs(features)
    # Each running job may hold a connection.
    database = settings.database.model_copy(update={"pool_size": settings.jobs.concurrency})
    sections = settings.model_copy(update={"database": database}).sections()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        current_default_thread_limiter().total_tokens = settings.server.threads
        with closing(log.writer) if log else nullcontext():
            async with open_resources(sections, JOBS_APPLICATION_NAME) as resources:
                app.state.resources = resources
                yield

    app = FastAPI(
        title="Job worker",
        lifespan=lifespan,
        openapi_url=None,
        telemetry=telemetry(),
    )
    app.state.settings = sections
    add_problem_handlers(app)
    app.include_router(health.router)
    app.include_router(metrics_endpoint.router)
    app.include_router(APIRouter(lifespan=run_jobs))  # after health, whose readiness it needs
    return app


def load_worker() -> FastAPI:
    settings = load_settings()
    log = open_log(settings.log, is_production=settings.is_production)
    if not settings.sections()[MailSettings].can_send:
        logger.warning(NO_MAIL)
    return create_worker(settings, log)


def serve(app: FastAPI, settings: Settings) -> None:
    """Run the process until SIGTERM or SIGINT."""
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            host=settings.server.host,
            port=settings.metrics.port,
            loop="uvloop",
            http="httptools",
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=CLOSING_SECONDS,
            workers=1,  # without this, Uvicorn reads WEB_CONCURRENCY, which is for the service
        )
    )
    # The server installs the same handler, but later: a signal before that would be lost. It also
    # sends the signals again when it has stopped. They change nothing then, so the exit code is 0.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, server.handle_exit)
    server.run()


if __name__ == "__main__":
    serve(load_worker(), load_settings())
