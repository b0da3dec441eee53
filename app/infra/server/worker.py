"""The Uvicorn worker that Gunicorn runs: uvloop, httptools, and time to finish at shutdown."""

from typing import Any, ClassVar

from uvicorn_worker import UvicornWorker

# Between the worker's own deadline and Gunicorn's SIGKILL, for the lifespan to close its resources.
CLOSING_SECONDS = 10


class Worker(UvicornWorker):  # type: ignore[misc]
    """Stops by itself before Gunicorn's `graceful_timeout`, so that the lifespan shutdown runs."""

    CONFIG_KWARGS: ClassVar[dict[str, Any]] = {
        "loop": "uvloop",
        "http": "app.infra.server.protocol:LimitedProtocol",
        "server_header": False,
    }

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.config.timeout_graceful_shutdown = self.cfg.graceful_timeout - CLOSING_SECONDS
