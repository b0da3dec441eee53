"""Clients that a server is to get rid of: they send slowly, or a head without an end."""

import asyncio
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import NamedTuple

from dev.address import Address

STATUS = re.compile(rb"HTTP/1\.1 (\d+)")
CUT_OFF = 0


@dataclass(frozen=True)
class Manner:
    """How somebody sends: at first, and then again and again."""

    name: str
    first: bytes
    piece: bytes
    pause_seconds: float


SLOW_HEAD = Manner("slow head", b"GET / HTTP/1.1\r\nHost: test\r\n", b"X: y\r\n", 0.5)
SLOW_BODY = Manner(
    "slow body",
    b"POST /v1/users HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
    b"Content-Length: 100000\r\n\r\n",
    b" ",
    0.5,
)
MANY_FIELDS = Manner(
    "many fields", b"GET / HTTP/1.1\r\nHost: test\r\n", 200 * b"X-Field: y\r\n", 0.01
)
LONG_FIELD = Manner("long field", b"GET / HTTP/1.1\r\nHost: test\r\nX: ", 4_096 * b"y", 0.01)


class Ending(NamedTuple):
    """How it ended, and after how long: status 0 when the connection was cut off."""

    manner: str
    status: int
    seconds: float


class Crowd:
    """Many of them at a time; whoever is sent away comes back after a while."""

    def __init__(self, address: Address, back_after_seconds: float) -> None:
        self._address = address
        self._back_after_seconds = back_after_seconds
        self.endings: list[Ending] = []
        self.since: dict[int, float] = {}

    def oldest_seconds(self) -> float:
        """Return for how long the most patient of them has been served."""
        now = time.monotonic()
        served = [now - began for began in self.since.values()]
        return max([*served, *(ending.seconds for ending in self.endings)], default=0.0)

    @asynccontextmanager
    async def around(self, number: int, *manners: Manner) -> AsyncIterator[None]:
        """Send until the block is left."""
        tasks = [
            asyncio.create_task(self._come(index, manners[index % len(manners)]))
            for index in range(number)
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _come(self, index: int, manner: Manner) -> None:
        await asyncio.sleep(index / 200)
        while True:
            began = self.since[index] = time.monotonic()
            try:
                status = await self._send(manner)
            finally:
                del self.since[index]
            self.endings.append(Ending(manner.name, status, time.monotonic() - began))
            await asyncio.sleep(self._back_after_seconds)

    async def _send(self, manner: Manner) -> int:
        reader, writer = await asyncio.open_connection(self._address.host, self._address.port)
        answer = asyncio.create_task(reader.read())
        try:
            with suppress(ConnectionError):
                writer.write(manner.first)
                while not answer.done():
                    writer.write(manner.piece)
                    await writer.drain()
                    await asyncio.wait({answer}, timeout=manner.pause_seconds)
            with suppress(ConnectionError):
                if (found := STATUS.match(await answer)) is not None:
                    return int(found[1])
            return CUT_OFF
        finally:
            answer.cancel()
            writer.close()
