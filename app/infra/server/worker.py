"""The worker that Gunicorn runs: uvloop, httptools and a server of our own (server.py)."""

import asyncio
import signal
import sys
from typing import Any, ClassVar

from gunicorn.arbiter import Arbiter
from uvicorn_worker import UvicornWorker

from app.infra.ending import the_end
from app.infra.server.boots import BOOT_FAILED
from app.infra.server.departure import Departure
from app.infra.server.load_table import TABLE, Row
from app.infra.server.server import Server
from app.sections import CLOSING_SECONDS, ServerSettings

# For tasks that still run when all connections are gone or the time is up.
CANCEL_SECONDS = 1


class Worker(UvicornWorker):  # type: ignore[misc]
    """Ends by itself before Gunicorn would kill it, so that the lifespan shutdown runs."""

    CONFIG_KWARGS: ClassVar[dict[str, Any]] = {
        "loop": "uvloop",
        "http": "app.infra.server.protocol:LimitedProtocol",
        "ws": "none",  # the protocol ignores `Upgrade`: no library for WebSockets is needed
        "server_header": False,
        "timeout_graceful_shutdown": CANCEL_SECONDS,
    }

    row: Row  # both from the master, before the fork
    settings: ServerSettings

    def init_process(self) -> None:
        """Boot and serve. Once the instance has started, a failed boot ends this worker alone."""
        try:
            super().init_process()
        except (Exception, SystemExit) as error:
            is_success = isinstance(error, SystemExit) and not error.code
            if self.row.booted or not TABLE.started or is_success:
                raise
            self.log.exception("This worker cannot boot: %s", error)  # noqa: TRY401 - a SystemExit says why
            sys.exit(BOOT_FAILED)

    async def _serve(self) -> None:
        the_end.is_announced = True
        self.config.app = self.wsgi
        leave_seconds = self.settings.graceful_timeout_seconds - CLOSING_SECONDS
        departure = Departure(TABLE, self.row, self.settings.drain_seconds, leave_seconds)
        server = Server(self.config, TABLE, self.row, departure)
        asyncio.get_running_loop().add_signal_handler(signal.SIGQUIT, server.quit)
        await server.serve_shared([listener.sock for listener in self.sockets])
        if not server.started:
            sys.exit(Arbiter.WORKER_BOOT_ERROR)
        self.row.end()
