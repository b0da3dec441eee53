"""Accepts connections from the sockets that all workers share, so that each gets an equal share.

The kernel wakes every worker for a new connection, and the fastest worker accepts it. A burst of
connections therefore often ends up at a single worker. To prevent this, a worker that has more
connections than the least loaded worker pauses for YIELD_SECONDS and lets other workers accept.
It then accepts some of the connections that they have left.

The master owns the sockets, so a connection that no worker has accepted yet survives every worker.
"""

import asyncio
import logging
import socket
from collections.abc import Callable, Sequence
from functools import partial

from graceful_gunicorn.shared_state import SharedState, WorkerState

YIELD_SECONDS = 0.001
# With 1, 2 and 4, the waits and the shares of the workers were about the same (decision 17).
ACCEPTS_AFTER_PAUSE = 2
# The maximum for one turn of the event loop. With one connection per turn, a burst would stay in
# the kernel's queue, and new connections would wait there behind requests that no limit counts yet.
MAX_ACCEPTS_PER_TURN = 16
# A worker may have one connection more than the least loaded worker, plus a sixteenth of the least
# load.
LEAD_DIVISOR = 16
# How long to wait after accept() has failed because the process has no free file descriptors.
EXHAUSTED_SECONDS = 1.0

logger = logging.getLogger("uvicorn.error")


class Acceptor:
    """Accepts connections between `start` and `stop`, and passes each one to `accepted`."""

    def __init__(
        self,
        listeners: Sequence[socket.socket],
        shared_state: SharedState,
        own: WorkerState,
        accepted: Callable[[socket.socket], None],
    ) -> None:
        self._listeners = listeners
        self._shared_state = shared_state
        self._own = own
        self._accepted = accepted
        self._others: list[WorkerState] = []
        self._paused: dict[socket.socket, asyncio.TimerHandle] = {}
        self._loop = asyncio.get_running_loop()

    def start(self) -> None:
        """Start to accept, and tell the other workers so."""
        self.refresh_other_workers()
        for listener in self._listeners:
            self._loop.add_reader(listener, self._on_readable, listener)
        self._own.wants_to_accept = True

    def stop(self, *, accept_queued: bool) -> None:
        """Stop accepting and close the listeners. A second call does nothing.

        Connections in the kernel's queue are left to the other workers. If there are none,
        `accept_queued` makes this worker accept the queued connections first.
        """
        self._own.wants_to_accept = False
        listeners, self._listeners = self._listeners, ()
        for listener in listeners:
            self._loop.remove_reader(listener)
            while accept_queued and self._accept(listener):
                pass
            listener.close()
        for handle in self._paused.values():
            handle.cancel()

    def refresh_other_workers(self) -> None:
        """Update the list of workers that accept. The server calls this ten times a second.

        Looking them up for each new connection would cost more.
        """
        self._others = self._shared_state.other_accepting_workers(self._own)

    def _on_readable(self, listener: socket.socket) -> None:
        for _ in range(MAX_ACCEPTS_PER_TURN):
            if self._has_more_than_its_share():
                self._pause(listener, YIELD_SECONDS)
                return
            if not self._accept(listener):
                return

    def _has_more_than_its_share(self) -> bool:
        mine = self._own.connections
        least = min((worker.connections for worker in self._others), default=mine)
        return mine > least + 1 + least // LEAD_DIVISOR

    def _accept(self, listener: socket.socket) -> bool:
        """Return whether a connection was accepted."""
        try:
            connection, _ = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return False  # another worker was faster, or the client has disconnected
        except OSError:
            logger.exception(
                "A connection cannot be accepted. This worker retries in %g s.", EXHAUSTED_SECONDS
            )
            self._pause(listener, EXHAUSTED_SECONDS)
            return False
        self._accepted(connection)
        return True

    def _pause(self, listener: socket.socket, seconds: float) -> None:
        self._loop.remove_reader(listener)
        self._paused[listener] = self._loop.call_later(seconds, partial(self._resume, listener))

    def _resume(self, listener: socket.socket) -> None:
        self._loop.add_reader(listener, self._on_readable, listener)
        for _ in range(ACCEPTS_AFTER_PAUSE):
            if not self._accept(listener):
                return
