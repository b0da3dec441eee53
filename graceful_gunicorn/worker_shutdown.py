"""Shuts a worker down without losing a request.

A worker that is replaced keeps serving until another worker accepts connections. Then it stops
accepting and drains its connections: each response is the last one of its connection (see
connection_draining.py). The worker exits when no connection is left.

When the whole instance shuts down, no other worker of this instance takes over, but a load balancer
may know another instance. So readiness fails first, and requests are accepted for as long as the
load balancer may take to notice.
"""

import os
import time
from collections.abc import Iterable

from uvicorn.server import ServerState

from graceful_gunicorn.acceptor import Acceptor
from graceful_gunicorn.config import ServerConfig
from graceful_gunicorn.connection_draining import DrainingProtocol
from graceful_gunicorn.shared_state import SharedState, Shutdown, WorkerState

# How long a worker waits for another worker to accept before it stops accepting anyway.
REPLACEMENT_WAIT_SECONDS = 10.0
# While the instance shuts down, a connection that was idle for this many ticks is closed. A client
# whose response was given up has as much time to read what was sent before, in any shutdown.
MAX_IDLE_TICKS = 10
# And a client of whose complete response nothing was read for this many ticks is disconnected, in
# any shutdown. The system holds some of the response, and asks for more only now and then.
MAX_UNREAD_TICKS = 50


class WorkerShutdown:
    """The shutdown of one worker. The server calls `advance` ten times a second (a tick)."""

    def __init__(self, shared_state: SharedState, own: WorkerState, config: ServerConfig) -> None:
        self._shared_state = shared_state
        self._own = own
        self._config = config
        self._deadline_seconds = config.graceful_timeout_seconds - config.closing_seconds
        self._master_pid = os.getppid()
        self._requested_at: float | None = None
        self._being_replaced = False
        self._instance_shutdown_at: float | None = None
        self._deadline: float | None = None
        self._stopped_accepting = False
        self._idle_ticks: dict[DrainingProtocol, int] = {}
        # How many bytes wait for the client, and for how many ticks they have been as many.
        self._unread: dict[DrainingProtocol, tuple[int, int]] = {}

    def request(self, *, being_replaced: bool) -> None:
        """Shut down as soon as another worker accepts. A repeated request changes nothing.

        `being_replaced` means that the master has started a replacement already. No other worker
        that the same reload replaces may then rely on this one.
        """
        self._requested_at = self._requested_at or time.monotonic()
        if being_replaced:
            self._being_replaced = True
            self._own.wants_to_accept = False

    @property
    def in_progress(self) -> bool:
        """Whether a shutdown of this worker or of the instance has been requested."""
        return self._requested_at is not None or self._instance_shutdown_at is not None

    def advance(self, acceptor: Acceptor, state: ServerState) -> bool:
        """Take the next step if it is due. Return whether the process may exit."""
        now = time.monotonic()
        if self._instance_shutdown_at is None and self._is_instance_shutting_down():
            self._instance_shutdown_at, self._deadline = now, now + self._deadline_seconds
            self._config.on_drain()
        if not self._stopped_accepting and self._should_stop_accepting(now):
            self._stop_accepting(acceptor, now)
        if self._stopped_accepting or self._instance_shutdown_at is not None:
            self._drain_connections(state)
        return self._stopped_accepting and self._is_finished(state, now)

    def _is_instance_shutting_down(self) -> bool:
        # The parent process changes when the master has been killed.
        return self._shared_state.shutdown is not Shutdown.NONE or os.getppid() != self._master_pid

    def _should_stop_accepting(self, now: float) -> bool:
        if self._instance_shutdown_at is not None:
            return now >= self._instance_shutdown_at + self._config.drain_seconds
        if self._requested_at is None:
            return False
        # If new workers cannot boot, no other worker may come for a long time.
        has_waited = now >= self._requested_at + REPLACEMENT_WAIT_SECONDS
        may_stop_alone = has_waited and not self._shared_state.failed_boots
        return self._another_worker_accepts() or may_stop_alone

    def _another_worker_accepts(self) -> bool:
        """Return whether another worker accepts connections and will continue to.

        This worker first withdraws its own `wants_to_accept` and then looks at the others. In this
        order, two workers that shut down at the same time never both rely on each other.
        """
        self._own.wants_to_accept = False
        found = bool(self._shared_state.other_accepting_workers(self._own))
        self._own.wants_to_accept = not (found or self._being_replaced)
        return found

    def _stop_accepting(self, acceptor: Acceptor, now: float) -> None:
        self._stopped_accepting = True
        self._deadline = self._deadline or now + self._deadline_seconds
        acceptor.stop(accept_queued=self._instance_shutdown_at is not None)
        self._config.on_stop_accepting()

    def _drain_connections(self, state: ServerState) -> None:
        connections = [one for one in state.connections if isinstance(one, DrainingProtocol)]
        for connection in connections:
            connection.drain()
        if not self._stopped_accepting:
            return
        before, closes_idle = self._idle_ticks, self._instance_shutdown_at is not None
        idle = [one for one in connections if one.is_cut_off or (closes_idle and one.is_idle)]
        self._idle_ticks = {one: before.get(one, 0) + 1 for one in idle}
        for connection, ticks in self._idle_ticks.items():
            if ticks > MAX_IDLE_TICKS:
                close = connection.transport.abort if connection.is_cut_off else connection.shutdown
                close()
        self._abort_unread(connections)

    def _abort_unread(self, connections: Iterable[DrainingProtocol]) -> None:
        """End connections whose clients do not read the end of a response. Slow ones go on."""
        before, self._unread = self._unread, {}
        for connection in connections:
            size = connection.transport.get_write_buffer_size() if connection.is_idle else 0
            if size:
                last_size, ticks = before.get(connection, (size, 0))
                ticks = ticks + 1 if size == last_size else 0
                self._unread[connection] = size, ticks
                if ticks > MAX_UNREAD_TICKS:
                    connection.transport.abort()

    def _is_finished(self, state: ServerState, now: float) -> bool:
        assert self._deadline is not None
        return not (self._own.connections or state.tasks) or now >= self._deadline
