"""Uvicorn's server as one of several workers that share sockets and divide the load evenly."""

import asyncio
import logging
import socket
from collections.abc import Sequence
from contextvars import Context
from math import ceil
from types import FrameType
from typing import Any

import uvicorn

from graceful_gunicorn.acceptor import Acceptor
from graceful_gunicorn.config import ServerConfig
from graceful_gunicorn.connection_draining import DrainingProtocol
from graceful_gunicorn.mapped_file import MappedFile
from graceful_gunicorn.shared_state import SHARED_STATE, Shutdown, WorkerState
from graceful_gunicorn.unread_responses import UnreadResponses
from graceful_gunicorn.worker_shutdown import WorkerShutdown

logger = logging.getLogger(__name__)

TICKS_PER_SECOND = 10
# A worker sheds connections when it exceeds the mean by more than 5 % of the mean plus 2
# connections. It then sheds half of its excess over the mean per second.
TOLERATED_SHARE, TOLERATED_CONNECTIONS, SHED_DIVISOR = 0.05, 2, 2


class Server(uvicorn.Server):
    """Accepts its own connections and serves them until the worker's shutdown is finished.

    The listeners are shared with other processes, so `serve(sockets=[])` must be called.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        server_config: ServerConfig,
        own: WorkerState,
        listeners: Sequence[socket.socket],
    ) -> None:
        super().__init__(config)
        self._own = own
        self._acceptor = Acceptor(listeners, SHARED_STATE, own, self._on_accepted)
        self._worker_shutdown = WorkerShutdown(SHARED_STATE, own, server_config)
        self._unread_responses = UnreadResponses(server_config)
        self._closing_seconds = server_config.closing_seconds
        # Uvicorn would exit at this limit without waiting for another worker, so it must not see
        # the limit. `on_tick` applies it instead.
        self._max_requests = config.limit_max_requests
        config.limit_max_requests = None
        self._opening: set[asyncio.Task[None]] = set()
        self._stops_immediately = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to accept connections as soon as the application has started."""
        await super().startup(sockets)
        if self.started:
            self._publish_state()
            self._acceptor.start()
            SHARED_STATE.record_boot(self._own)

    async def on_tick(self, counter: int) -> bool:
        """Do the periodic work, ten times a second. Return whether the process may exit."""
        self._publish_state()
        self._acceptor.refresh_other_workers()
        if SHARED_STATE.shutdown is Shutdown.IMMEDIATE:
            self.stop_immediately()
        if await super().on_tick(counter):
            return True
        if self._max_requests and self.server_state.total_requests >= self._max_requests:
            self._worker_shutdown.request(being_replaced=False)
        if counter % TICKS_PER_SECOND == 0:
            self._unread_responses.abort_overdue(self.server_state.connections)
            if not self._worker_shutdown.in_progress:
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

    def _on_accepted(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        task = loop.create_task(self._open_connection(connection), context=Context())
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)
        self._publish_state()

    async def _open_connection(self, connection: socket.socket) -> None:
        """Pass the connection to its protocol, after the TLS handshake if the server uses TLS."""
        protocol: Any = self.config.http_protocol_class
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: protocol(self.config, self.server_state, self.lifespan.state),
                connection,
                ssl=self.config.ssl,
            )
        except OSError as error:  # the client disconnected, or the handshake failed
            logger.debug("A connection could not be opened: %r", error)

    def _publish_state(self) -> None:
        self._own.heartbeat(len(self.server_state.connections) + len(self._opening))
        self._own.record_missing_metrics(MappedFile.lost_keys)

    def _shed_excess_connections(self) -> None:
        """Drain some connections if this worker has many more than the others.

        Their clients reconnect, and a worker that has just started gets its share of them.
        """
        others = SHARED_STATE.other_accepting_workers(self._own)
        loads = [self._own.connections, *(worker.connections for worker in others)]
        mean = sum(loads) / len(loads)
        http = (one for one in self.server_state.connections if isinstance(one, DrainingProtocol))
        staying = [connection for connection in http if not connection.is_draining]
        excess = len(staying) - mean
        if excess > mean * TOLERATED_SHARE + TOLERATED_CONNECTIONS:
            for connection in staying[: ceil(excess / SHED_DIVISOR)]:
                connection.drain()
