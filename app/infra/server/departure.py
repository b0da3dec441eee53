"""How a worker leaves without losing a request.

One that is replaced goes on until another one accepts. Then it takes no more connections, each
response is the last of its connection (see farewell.py), and it is over when none is left.

When the whole instance ends nobody takes over here, but a load balancer may know another instance:
first readiness fails, and requests are accepted for as long as that may take to be noticed.
"""

import os
import time

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from app.infra.ending import the_end
from app.infra.server.acceptor import Acceptor
from app.infra.server.farewell import bid_farewell, is_idle
from app.infra.server.load_table import End, LoadTable, Row

# How long a worker waits for another one to accept.
SUCCESSOR_SECONDS = 10.0
# When the instance ends, a connection on which nothing came for so many calls is closed.
IDLE_CALLS = 10


class Departure:
    """From the first word of it to the last connection. `advance` is called ten times a second."""

    def __init__(self, table: LoadTable, row: Row, drain_seconds: float, leave_seconds: float):
        self._table = table
        self._row = row
        self._drain_seconds = drain_seconds
        self._leave_seconds = leave_seconds
        self._master = os.getppid()
        self._asked_at: float | None = None
        self._replaced = False  # by the master, which has made another one already
        self._end_at: float | None = None  # of the instance
        self._deadline: float | None = None
        self._stopped = False
        self._idle_calls: dict[HttpToolsProtocol, int] = {}

    def ask(self, *, replaced: bool) -> None:
        """Leave when others can do without. To ask again changes nothing."""
        self._asked_at = self._asked_at or time.monotonic()
        if replaced:
            self._replaced = True
            self._row.accepting = False  # none of those that a reload replaces is to rely on it

    @property
    def begun(self) -> bool:
        """Whether there is any talk of it."""
        return self._asked_at is not None or self._end_at is not None

    def advance(self, acceptor: Acceptor, state: ServerState) -> bool:
        """Take the next step if it is time for it. Return whether the process may end."""
        now = time.monotonic()
        if self._end_at is None and self._instance_ends():
            self._end_at, self._deadline = now, now + self._leave_seconds
            the_end.is_near = True
        if not self._stopped and self._may_stop(now):
            self._stop(acceptor, now)
        if self._stopped or self._end_at is not None:
            self._dismiss(state)
        return self._stopped and self._is_over(state, now)

    def _instance_ends(self) -> bool:
        return self._table.end is not End.NOT_YET or os.getppid() != self._master

    def _may_stop(self, now: float) -> bool:
        if self._end_at is not None:
            return now >= self._end_at + self._drain_seconds
        if self._asked_at is None:
            return False
        return self._has_successor() or now >= self._asked_at + SUCCESSOR_SECONDS

    def _has_successor(self) -> bool:
        """Say that this one is none, then look: two that leave must not rely on each other."""
        self._row.accepting = False
        found = bool(self._table.others(self._row))
        self._row.accepting = not (found or self._replaced)
        return found

    def _stop(self, acceptor: Acceptor, now: float) -> None:
        self._stopped = True
        self._deadline = self._deadline or now + self._leave_seconds
        acceptor.stop(take_rest=self._end_at is not None)
        the_end.announce()

    def _dismiss(self, state: ServerState) -> None:
        connections = [one for one in state.connections if isinstance(one, HttpToolsProtocol)]
        for connection in connections:
            bid_farewell(connection)
        if not self._stopped or self._end_at is None:
            return
        idle = self._idle_calls
        self._idle_calls = {one: idle.get(one, 0) + 1 for one in connections if is_idle(one)}
        for connection, calls in self._idle_calls.items():
            if calls > IDLE_CALLS:
                connection.shutdown()

    def _is_over(self, state: ServerState, now: float) -> bool:
        assert self._deadline is not None
        return not (self._row.connections or state.tasks) or now >= self._deadline
