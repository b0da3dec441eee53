"""The Gunicorn worker class. It runs uvloop, httptools and the server in server.py."""

import asyncio
import signal
import sys
from typing import Any, ClassVar

from gunicorn.arbiter import Arbiter
from uvicorn_worker import UvicornWorker

from graceful_gunicorn.arbiter import BOOT_FAILED_EXIT_CODE
from graceful_gunicorn.config import ServerConfig
from graceful_gunicorn.mapped_file import name_process, use_preallocated_files
from graceful_gunicorn.multiprocess_metrics import files_name
from graceful_gunicorn.protocol import protocol_class
from graceful_gunicorn.server import Server
from graceful_gunicorn.shared_state import SHARED_STATE, WorkerState

# How long Uvicorn waits for tasks that are still running when all connections have been closed or
# the deadline of the shutdown has passed. After that it cancels them.
CANCEL_SECONDS = 1

use_preallocated_files()


class Worker(UvicornWorker):  # type: ignore[misc]
    """Serves an ASGI application.

    The worker shuts down before Gunicorn would kill it, so that the lifespan shutdown always runs.
    """

    CONFIG_KWARGS: ClassVar[dict[str, Any]] = {
        "loop": "uvloop",
        "ws": "none",  # the protocol ignores `Upgrade`, so no WebSocket library is needed
        "server_header": False,
        "timeout_graceful_shutdown": CANCEL_SECONDS,
    }

    # The master sets both attributes before it forks (see `prepare_worker`).
    worker_state: WorkerState
    server_config: ServerConfig

    def init_process(self) -> None:
        """Boot and serve.

        Once the instance has started, a worker that fails to boot exits with a code that Gunicorn
        does not know, so the failure does not end the instance.
        """
        name_process(files_name(self.worker_state.number))
        try:
            super().init_process()
        except (Exception, SystemExit) as error:
            is_success = isinstance(error, SystemExit) and not error.code
            if self.worker_state.booted_at or not SHARED_STATE.started or is_success:
                raise
            # The traceback does not show the message of a SystemExit, so the text includes it.
            self.log.exception("This worker cannot boot: %s", error)  # noqa: TRY401
            sys.exit(BOOT_FAILED_EXIT_CODE)

    async def _serve(self) -> None:
        self.config.app, self.config.http = self.wsgi, protocol_class(self.server_config)
        listeners = [listener.sock for listener in self.sockets]
        server = Server(self.config, self.server_config, self.worker_state, listeners)
        asyncio.get_running_loop().add_signal_handler(signal.SIGQUIT, server.stop_immediately)
        await server.serve(sockets=[])
        if not server.started:
            sys.exit(Arbiter.WORKER_BOOT_ERROR)
        self.worker_state.exited_cleanly = True
