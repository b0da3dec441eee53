"""Clients of an event stream: most read it and reconnect as browsers do, some never read.

They use sockets of their own, because a client library would read ahead.
"""

import asyncio
import random
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from dev.address import Address
from tests.faults.callers import raise_first

STATUS = re.compile(rb"HTTP/1\.1 (\d+)")
EVENT = re.compile(rb"id: (\d+)\n(data: [^\n]*\n)?\n")
SMALL_BUFFER = 4_096
MOST_PAUSE_SECONDS = 0.5
REFUSED_PAUSE_SECONDS = 1.0


@dataclass
class Subscriber:
    """A client that reads. `ids` are those of all events, in the order in which they came."""

    address: Address
    path: str
    ids: list[int] = field(default_factory=list)
    last: int | None = None  # a stream names its place before the first event
    connections: int = 0
    statuses: set[int] = field(default_factory=set)

    async def listen(self) -> None:
        """Read, and reconnect with the id of the last event whenever the stream ends."""
        while True:
            reader, writer = await asyncio.open_connection(self.address.host, self.address.port)
            try:
                with suppress(ConnectionError, asyncio.IncompleteReadError):
                    await self._read(reader, writer)
            finally:
                writer.close()
            await asyncio.sleep(random.uniform(0, MOST_PAUSE_SECONDS))

    async def _read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(head(self.path, self.last))
        answer = STATUS.match(await reader.readuntil(b"\r\n\r\n"))
        assert answer is not None
        self.statuses.add(int(answer[1]))
        if int(answer[1]) != 200:
            await asyncio.sleep(REFUSED_PAUSE_SECONDS)
            return
        self.connections += 1
        rest = b""
        while data := await reader.read(65_536):
            rest += data
            end = 0
            for found in EVENT.finditer(rest):
                self.last = int(found[1])
                if found[2]:
                    self.ids.append(self.last)
                end = found.end()
            rest = rest[end:]


def head(path: str, last: int | None) -> bytes:
    lines = [f"GET {path} HTTP/1.1", "Host: test"]
    lines += [] if last is None else [f"Last-Event-ID: {last}"]
    return "\r\n".join([*lines, "", ""]).encode()


async def stall(address: Address, path: str, last: int | None = None) -> socket.socket:
    """Open a stream, and never read it."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
    connection.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(connection, (address.host, address.port))
    await loop.sock_sendall(connection, head(path, last))
    return connection


@asynccontextmanager
async def subscribed(address: Address, path: str, number: int) -> AsyncIterator[list[Subscriber]]:
    """Let clients listen until the block is left. Wait until each has connected."""
    subscribers = [Subscriber(address, path) for _ in range(number)]
    tasks = [asyncio.create_task(one.listen()) for one in subscribers]
    try:
        async with asyncio.timeout(60):
            while not all(one.connections for one in subscribers):
                await asyncio.sleep(0.05)
        yield subscribers
    finally:
        for task in tasks:
            task.cancel()
        raise_first(await asyncio.gather(*tasks, return_exceptions=True))
