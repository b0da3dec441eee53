"""Gunicorn's configuration, which `python -m app.serve` uses. Its values come from the settings."""

import errno
import gc
import logging
import sys

from gunicorn.arbiter import Arbiter
from gunicorn.workers.base import Worker

from app.infra.database.connection_budget import is_schema_behind, read_connection_budget
from app.infra.mail.settings import NO_MAIL, MailSettings
from app.infra.server.wiring import server_config
from app.infra.shutdown import server_shutdown
from app.settings import load_settings, misspelt_variables
from graceful_gunicorn import (
    available_cores,
    begin_metrics,
    bind_error,
    end_metrics,
    forget_worker,
    guard_master,
    prepare_worker,
)

_logger = logging.getLogger("gunicorn.error")
_settings = load_settings()
_server_config = server_config(_settings.server)
begin_metrics()

_host = _settings.server.host
_host = f"[{_host}]" if ":" in _host else _host
_ports = [_settings.server.port, *filter(None, [_settings.metrics.port])]
bind = [f"{_host}:{port}" for port in _ports]
workers = _settings.web_concurrency or available_cores()
wsgi_app = "app.main:app"
worker_class = "graceful_gunicorn.Worker"
max_requests = _settings.server.max_requests
max_requests_jitter = _settings.server.max_requests_jitter
# Uvicorn trusts these addresses. A number of proxies is for the middleware of the application.
forwarded_allow_ips = "" if _settings.server.trusted_hops else _settings.server.trusted_proxies
keepalive = _settings.server.keep_alive_seconds
graceful_timeout = _settings.server.graceful_timeout_seconds
# The control socket needs a writable home directory, which a container may lack.
control_socket_disable = True


def on_starting(_server: Arbiter) -> None:
    """Check the settings and the database before a worker starts."""
    for port in _ports:
        error = bind_error(_settings.server.host, port)
        if error and error.errno != errno.EADDRINUSE:  # Gunicorn retries while the port is in use
            raise SystemExit(
                f"The service cannot start. SERVER_HOST: it cannot listen there on port {port} "
                f"({error.strerror}). Set it to an address of this machine, or change the port."
            )
    for sentence in misspelt_variables():
        _logger.warning("In the environment: %s", sentence)
    if not _settings.sections()[MailSettings].can_send:
        _logger.warning(NO_MAIL)
    _check_database()


def _check_database() -> None:
    budget = read_connection_budget(
        _settings.database,
        workers=workers,
        replicas=_settings.replicas,
        has_cache=_settings.cache.enabled,
        job_workers=_settings.jobs.workers,
        concurrent_jobs=_settings.jobs.concurrency,
    )
    if budget is None:
        _logger.warning(
            "The database was not reached, so its connections were not counted. The service "
            "starts, and /readyz answers 503 until the database is reached. If that does not "
            "happen soon, correct DATABASE_URL."
        )
        return
    if not budget.is_sufficient:
        if _settings.is_production:
            raise SystemExit(f"The service cannot start. {budget}")
        _logger.warning("%s", budget)
    if is_schema_behind(_settings.database):
        _logger.warning(
            "The schema of the database is behind this code, and /readyz answers 503. Migrate it "
            "with: alembic upgrade head"
        )


def when_ready(server: Arbiter) -> None:
    """Keep the service running after a failed reload, or when a new worker cannot start.

    Workers also learn whether the whole service shuts down, or only they are replaced.
    """
    guard_master(server, _server_config)


def pre_fork(_server: Arbiter, worker: Worker) -> None:
    prepare_worker(worker, _server_config)


def post_worker_init(_worker: Worker) -> None:
    """Reduce garbage collection, because a full collection blocks all requests of the worker."""
    server_shutdown.is_announced_by_server = True
    gc.collect()
    gc.freeze()  # do not scan objects that were created at start-up
    gc.set_threshold(50_000, 20, 50)


def child_exit(server: Arbiter, worker: Worker) -> None:
    """Keep the counters of the worker, and release its other shared state."""
    forget_worker(server, worker)


def on_exit(_server: Arbiter) -> None:
    """Remove the files of the metrics."""
    end_metrics()


# Before a reload, another process checks the settings. Gunicorn calls no hook there.
if "--print-config" in sys.argv:
    _check_database()
