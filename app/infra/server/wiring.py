"""Configures `graceful_gunicorn` from the settings."""

import sys
from functools import partial

from app.infra.server.settings import CLOSING_SECONDS, ServerSettings
from app.infra.shutdown import server_shutdown
from graceful_gunicorn import EarlyError, ServerConfig


def server_config(settings: ServerSettings) -> ServerConfig:
    return ServerConfig(
        check_command=(sys.executable, "-m", "app.serve", "--print-config", *sys.argv[1:]),
        drain_seconds=settings.drain_seconds,
        graceful_timeout_seconds=settings.graceful_timeout_seconds,
        closing_seconds=CLOSING_SECONDS,
        header_seconds=settings.header_seconds,
        header_bytes=settings.header_bytes,
        header_fields=settings.header_fields,
        body_seconds=settings.body_seconds,
        write_seconds=settings.write_seconds,
        render_error=partial(_render_error, settings.hsts_seconds),
        on_refused=_count_refusal,
        on_drain=_begin_draining,
        on_stop_accepting=_begin_shutdown,
    )


def _begin_draining() -> None:
    server_shutdown.is_draining = True


def _begin_shutdown() -> None:
    server_shutdown.begin()


# The master imports this module before the folder of the metrics exists. So import these later.


def _render_error(hsts_seconds: int, status: int, code: str, detail: str, path: str) -> EarlyError:
    from app.infra.web.early_problems import render_problem

    return render_problem(hsts_seconds, status, code, detail, path)


def _count_refusal(limit: str) -> None:
    from app.infra.observability.metrics import REFUSED

    REFUSED.labels(limit).inc()
