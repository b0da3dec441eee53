"""Takes new connections from the sockets that all workers share, so that each worker gets its part.

The kernel wakes every worker for a connection, and the quickest gets it: a burst often ends at one
worker alone. So whoever has more than the least loaded waits a moment and lets another be first.
The sockets stay the master's: a connection that nobody has taken yet outlives every worker.
"""

import asyncio
import logging
import socket
from collections.abc import Callable, Sequence
from functools import partial

from app.infra.server.load_table import LoadTable, Row

YIELD_SECONDS = 0.002
# In one turn of the event loop. With one a turn, a burst would stay in the kernel's queue, and new
# connections would wait there behind requests that no limit has counted yet.
MOST_AT_ONCE = 16
LEAD_DIVISOR = 16  # by which part of the least load, beside one connection, a worker may be ahead
# Without file descriptors there is nothing to do but to wait for some.
EXHAUSTED_SECONDS = 1.0

logger = logging.getLogger("uvicorn.error")


class Acceptor:
    """Accepts between `start` and `stop`."""

    def __init__(
        self,
        listeners: Sequence[socket.socket],
        table: LoadTable,
        row: Row,
        accepted: Callable[[socket.socket], None],
    ) -> None:
        self._listeners = listeners
        self._table = table
        self._row = row
        self._accepted = accepted
        self._others: list[Row] = []
        self._paused: dict[socket.socket, asyncio.TimerHandle] = {}
        self._loop = asyncio.get_running_loop()

    def start(self) -> None:
        """Begin, and say so."""
        self.look_around()
        for listener in self._listeners:
            self._loop.add_reader(listener, self._readable, listener)
        self._row.accepting = True

    def stop(self, *, take_rest: bool) -> None:
        """Leave what comes to others. `take_rest`, if there are none, what is there already."""
        self._row.accepting = False
        listeners, self._listeners = self._listeners, ()  # there may be a second call
        for listener in listeners:
            self._loop.remove_reader(listener)
            while take_rest and self._accept(listener):
                pass
            listener.close()
        for handle in self._paused.values():
            handle.cancel()

    def look_around(self) -> None:
        """See who else accepts. To be called now and then: a connection costs less for it."""
        self._others = self._table.others(self._row)

    def _readable(self, listener: socket.socket) -> None:
        for _ in range(MOST_AT_ONCE):
            if self._has_more_than_its_part():
                self._pause(listener, YIELD_SECONDS)
                return
            if not self._accept(listener):
                return

    def _has_more_than_its_part(self) -> bool:
        mine = self._row.connections
        least = min((row.connections for row in self._others), default=mine)
        return mine > least + 1 + least // LEAD_DIVISOR

    def _accept(self, listener: socket.socket) -> bool:
        """Return whether a connection was there."""
        try:
            connection, _ = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return False  # another worker was first, or the client has left
        except OSError:
            logger.exception("No connection can be accepted")
            self._pause(listener, EXHAUSTED_SECONDS)
            return False
        self._accepted(connection)
        return True

    def _pause(self, listener: socket.socket, seconds: float) -> None:
        self._loop.remove_reader(listener)
        self._paused[listener] = self._loop.call_later(seconds, partial(self._resume, listener))

    def _resume(self, listener: socket.socket) -> None:
        self._loop.add_reader(listener, self._readable, listener)
        self._accept(listener)
