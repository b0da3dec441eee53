"""Clients of the stream of comments: most read it and reconnect as browsers do, some never read.

They use sockets of their own, because a client library would read ahead.
"""

import asyncio
import random
import re
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import httpx2

from dev.address import Address
from tests.faults.callers import raise_first
from tests.faults.postgres import Backend

STATUS = re.compile(rb"HTTP/1\.1 (\d+)")
EVENT = re.compile(rb"id: (\d+)\n(data: [^\n]*\n)?\n")
END = b"event: end\n"
SMALL_BUFFER = 4_096
COMMENT_PAUSE_SECONDS, PATIENCE_SECONDS = 0.15, 60.0
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
            if END in rest:  # a balancer keeps the connection of the client open
                return


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


@asynccontextmanager
async def commenting(
    client: httpx2.AsyncClient, post: str, headers: dict[str, str]
) -> AsyncIterator[Callable[[], int]]:
    """Write comments until the block is left. Yield a function that returns their number."""
    written, is_over = 0, False

    async def write() -> None:
        nonlocal written
        while not is_over:
            response = await client.post(f"{post}/comments", json={"body": "B"}, headers=headers)
            written += response.status_code == 201
            await asyncio.sleep(COMMENT_PAUSE_SECONDS)

    task = asyncio.create_task(write())
    try:
        yield lambda: written
    finally:
        is_over = True
        await task


@dataclass
class Audience:
    """Clients that read, and which comments they should have."""

    readers: Sequence[Subscriber]
    backend: Backend
    patience: float = PATIENCE_SECONDS
    stored: list[int] = field(default_factory=list)

    async def compare(self, when: str) -> list[str]:
        """Wait until each has the last comment, and return who does not have each comment once."""
        rows = await self.backend.rows("SELECT id FROM comments WHERE body = 'B' ORDER BY id")
        self.stored = [row["id"] for row in rows]
        await until(lambda: all(one.last == self.stored[-1] for one in self.readers), self.patience)
        ids = [one.ids for one in self.readers]
        found = {
            "missed comments": sum(bool(set(self.stored) - set(one)) for one in ids),
            "got a comment twice": sum(len(set(one)) < len(one) for one in ids),
            "got comments in the wrong order": sum(one != sorted(one) for one in ids),
        }
        return [f"{number} clients {problem} {when}" for problem, number in found.items() if number]

    def refused(self) -> list[str]:
        """Return a sentence if clients were refused while a worker was ready."""
        statuses = {status for one in self.readers for status in one.statuses} - {200, 503}
        return [f"clients got status {sorted(statuses)}"] * bool(statuses)


async def until(condition: Callable[[], bool], patience: float = PATIENCE_SECONDS) -> None:
    """Wait until the condition is true, or for as long as any client would."""
    deadline = asyncio.get_running_loop().time() + patience
    while not condition() and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(0.1)
