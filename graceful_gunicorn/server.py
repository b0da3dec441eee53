"""Uvicorn's server as one of several workers that share sockets and divide the load evenly."""

import asyncio
import logging
import socket
from contextvars import Context
from functools import partial
from math import ceil
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from graceful_gunicorn.acceptor import Acceptor
from graceful_gunicorn.connection_draining import drain_connection, is_draining
from graceful_gunicorn.mapped_file import MappedFile
from graceful_gunicorn.shared_state import SharedState, Shutdown, WorkerState
from graceful_gunicorn.worker_shutdown import WorkerShutdown

logger = logging.getLogger(__name__)

TICKS_PER_SECOND = 10
# A worker sheds connections when it exceeds the mean by more than 5 % of the mean plus 2
# connections. It then sheds half of its excess over the mean per second.
TOLERATED_SHARE, TOLERATED_CONNECTIONS, SHED_DIVISOR = 0.05, 2, 2


class Server(uvicorn.Server):
    """Accepts its own connections and serves them until the worker's shutdown is finished."""

    def __init__(
        self,
        config: uvicorn.Config,
        shared_state: SharedState,
        own: WorkerState,
        worker_shutdown: WorkerShutdown,
        closing_seconds: float,
    ) -> None:
        super().__init__(config)
        self._shared_state = shared_state
        self._own = own
        self._worker_shutdown = worker_shutdown
        self._closing_seconds = closing_seconds
        # Uvicorn would exit at this limit without waiting for another worker, so it must not see
        # the limit. `on_tick` applies it instead.
        self._max_requests = config.limit_max_requests
        config.limit_max_requests = None
        self._opening: set[asyncio.Task[object]] = set()
        self._stops_immediately = False

    async def serve_shared_sockets(self, listeners: list[socket.socket]) -> None:
        """Serve connections from sockets at which other processes accept as well."""
        self._acceptor = Acceptor(listeners, self._shared_state, self._own, self._open_connection)
        await self.serve(sockets=[])

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to accept connections as soon as the application has started."""
        await super().startup(sockets)
        if self.started:
            self._publish_state()
            self._acceptor.start()
            self._shared_state.record_boot(self._own)

    async def on_tick(self, counter: int) -> bool:
        """Do the periodic work, ten times a second. Return whether the process may exit."""
        self._publish_state()
        self._acceptor.refresh_other_workers()
        if self._shared_state.shutdown is Shutdown.IMMEDIATE:
            self.stop_immediately()
        if await super().on_tick(counter):
            return True
        if self._max_requests and self.server_state.total_requests >= self._max_requests:
            self._worker_shutdown.request(being_replaced=False)
        if counter % TICKS_PER_SECOND == 0 and not self._worker_shutdown.in_progress:
            self._shed_excess_connections()
        return self._worker_shutdown.advance(self._acceptor, self.server_state)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - Uvicorn's
        """Request a graceful shutdown. During a reload the worker may be shutting down already."""
        self._worker_shutdown.request(being_replaced=True)

    def stop_immediately(self) -> None:
        """Shut down without waiting for running requests."""
        self.should_exit = self._stops_immediately = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the connections, then the lifespan. An immediate stop cancels running requests."""
        if not self._stops_immediately:
            await super().shutdown(sockets)
            return
        self._acceptor.stop(accept_queued=False)
        for task in self.server_state.tasks:
            task.cancel()
        try:
            async with asyncio.timeout(self._closing_seconds):
                await super().shutdown(sockets)
        except TimeoutError:
            logger.warning(
                "The lifespan shutdown did not finish within %g s. The worker exits without it.",
                self._closing_seconds,
            )

    def _open_connection(self, connection: socket.socket) -> None:
        protocol: Any = self.config.http_protocol_class
        make_protocol = partial(
            protocol,
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
        )
        loop = asyncio.get_running_loop()
        opening = loop.connect_accepted_socket(make_protocol, connection, ssl=self.config.ssl)
        task = loop.create_task(opening, context=Context())
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)
        self._publish_state()

    def _publish_state(self) -> None:
        self._own.heartbeat(len(self.server_state.connections) + len(self._opening))
        self._own.record_missing_metrics(MappedFile.lost_keys)

    def _shed_excess_connections(self) -> None:
        """Drain some connections if this worker has many more than the others.

        Their clients reconnect, and a worker that has just started gets its share of them.
        """
        others = self._shared_state.other_accepting_workers(self._own)
        loads = [worker.connections for worker in others]
        mean = (sum(loads) + self._own.connections) / (len(loads) + 1)
        http = (one for one in self.server_state.connections if isinstance(one, HttpToolsProtocol))
        staying = [connection for connection in http if not is_draining(connection)]
        excess = len(staying) - mean
        if excess > mean * TOLERATED_SHARE + TOLERATED_CONNECTIONS:
            for connection in staying[: ceil(excess / SHED_DIVISOR)]:
                drain_connection(connection)
