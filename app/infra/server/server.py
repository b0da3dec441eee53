"""Uvicorn's server as one worker among others: it takes its part of the connections and no more."""

import asyncio
import logging
import socket
from functools import partial
from math import ceil
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.infra.background import detached
from app.infra.mapped_file import MappedFile
from app.infra.server.acceptor import Acceptor
from app.infra.server.departure import Departure
from app.infra.server.farewell import bid_farewell, is_leaving
from app.infra.server.load_table import End, LoadTable, Row
from app.sections import CLOSING_SECONDS

logger = logging.getLogger(__name__)

TICKS_A_SECOND = 10
# A worker is far above the mean with so much more than it, and sheds a part of that a second.
EXCESS_SHARE, EXCESS, PART_SHED = 0.05, 2, 2


class Server(uvicorn.Server):
    """Serves what it accepts itself, until its departure is over."""

    def __init__(
        self, config: uvicorn.Config, table: LoadTable, row: Row, departure: Departure
    ) -> None:
        super().__init__(config)
        self._table = table
        self._row = row
        self._departure = departure
        self._max_requests = config.limit_max_requests
        config.limit_max_requests = None  # Uvicorn would not wait for another worker
        self._opening: set[asyncio.Task[object]] = set()
        self._ends_at_once = False

    async def serve_shared(self, listeners: list[socket.socket]) -> None:
        """Serve what comes to sockets that other processes accept from as well."""
        self._acceptor = Acceptor(listeners, self._table, self._row, self._open)
        await self.serve(sockets=[])

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept as soon as the application has started."""
        await super().startup(sockets)
        if self.started:
            self._beat()
            self._acceptor.start()
            self._table.note_boot(self._row)

    async def on_tick(self, counter: int) -> bool:
        """Do what is to be done ten times a second. Return whether the process may end."""
        self._beat()
        self._acceptor.look_around()
        if self._table.end is End.AT_ONCE:
            self.quit()
        if await super().on_tick(counter):
            return True
        if self._max_requests and self.server_state.total_requests >= self._max_requests:
            self._departure.ask(replaced=False)
        if counter % TICKS_A_SECOND == 0 and not self._departure.begun:
            self._shed()
        return self._departure.advance(self._acceptor, self.server_state)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - Uvicorn's
        """Note that this worker is to leave. A reload may ask one that is leaving already."""
        self._departure.ask(replaced=True)

    def quit(self) -> None:
        """End without waiting for the requests that are running."""
        self.should_exit = self._ends_at_once = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close connections, then the lifespan. If there is no time to wait, cancel requests."""
        if not self._ends_at_once:
            await super().shutdown(sockets)
            return
        self._acceptor.stop(take_rest=False)
        for task in self.server_state.tasks:
            task.cancel()
        try:
            async with asyncio.timeout(CLOSING_SECONDS):
                await super().shutdown(sockets)
        except TimeoutError:
            logger.warning("The lifespan did not end within %d s.", CLOSING_SECONDS)

    def _open(self, connection: socket.socket) -> None:
        protocol: Any = self.config.http_protocol_class
        make = partial(
            protocol,
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
        )
        loop = asyncio.get_running_loop()
        task = detached(loop.connect_accepted_socket(make, connection, ssl=self.config.ssl))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)
        self._beat()

    def _beat(self) -> None:
        self._row.beat(len(self.server_state.connections) + len(self._opening))
        self._row.note_missing(MappedFile.lost)

    def _shed(self) -> None:
        """Let some connections find another worker: one that has just started has none."""
        loads = [row.connections for row in self._table.others(self._row)]
        mean = (sum(loads) + self._row.connections) / (len(loads) + 1)
        http = (one for one in self.server_state.connections if isinstance(one, HttpToolsProtocol))
        staying = [connection for connection in http if not is_leaving(connection)]
        excess = len(staying) - mean
        if excess > mean * EXCESS_SHARE + EXCESS:
            for connection in staying[: ceil(excess / PART_SHED)]:
                bid_farewell(connection)
