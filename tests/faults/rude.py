"""Clients that a server must get rid of: they send slowly, or they send a head without an end.

They run in a process of their own, so that they do not delay the clients that are measured.
"""

import asyncio
import json
import re
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import NamedTuple

from dev.address import Address

STATUS = re.compile(rb"HTTP/1\.1 (\d+)")
CUT_OFF = 0


@dataclass(frozen=True)
class Manner:
    """What a client sends: first `first`, then `piece` again and again."""

    name: str
    first: bytes
    piece: bytes
    pause_seconds: float


SLOW_HEAD = Manner("slow head", b"GET / HTTP/1.1\r\nHost: test\r\n", b"X: y\r\n", 0.5)
# The length is below the limit of the route. Otherwise the route would refuse it at once.
SLOW_BODY = Manner(
    "slow body",
    b"POST /v1/users HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
    b"Content-Length: 8000\r\n\r\n",
    b" ",
    0.5,
)
MANY_FIELDS = Manner(
    "many fields", b"GET / HTTP/1.1\r\nHost: test\r\n", 800 * b"X-Field: y\r\n", 0.05
)
LONG_FIELD = Manner("long field", b"GET / HTTP/1.1\r\nHost: test\r\nX: ", 8_192 * b"y", 0.05)


MANNERS = {one.name: one for one in (SLOW_HEAD, SLOW_BODY, MANY_FIELDS, LONG_FIELD)}


class Ending(NamedTuple):
    """The outcome of one connection. The status is 0 if it was cut off."""

    status: int
    seconds: float


@dataclass
class Seen:
    """The outcomes of all connections."""

    endings: list[Ending] = field(default_factory=list)
    # The longest time that a connection lasted, including the connections that are still open.
    oldest_seconds: float = 0.0


@asynccontextmanager
async def crowd(
    address: Address, number: int, manners: Sequence[Manner], back_after_seconds: float
) -> AsyncIterator[Seen]:
    """Keep `number` clients connected. A client that is refused comes back after a while."""
    seen = Seen()
    given = (address.host, address.port, number, back_after_seconds, *(one.name for one in manners))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", __name__, *map(str, given)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield seen
    finally:
        output, _ = await process.communicate(b"")
        told = json.loads(output)
        seen.endings = [Ending(*ending) for ending in told["endings"]]
        seen.oldest_seconds = told["oldest_seconds"]


class Crowd:
    """Many clients at the same time."""

    def __init__(self, host: str, port: int, back_after_seconds: float) -> None:
        self._place = host, port
        self._back_after_seconds = back_after_seconds
        self._endings: list[Ending] = []
        self._since: dict[int, float] = {}

    async def stay(self, number: int, manners: Sequence[Manner]) -> str:
        """Send until standard input is closed, and return the outcomes as JSON."""
        comers = (self._come(one, number, manners[one % len(manners)]) for one in range(number))
        tasks = [asyncio.create_task(comer) for comer in comers]
        await asyncio.to_thread(sys.stdin.read)
        now = time.monotonic()
        served = [now - began for began in self._since.values()]
        served += [ending.seconds for ending in self._endings]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return json.dumps({"endings": self._endings, "oldest_seconds": max(served, default=0.0)})

    async def _come(self, one: int, number: int, manner: Manner) -> None:
        await asyncio.sleep(one / number * self._back_after_seconds)
        while True:
            began = self._since[one] = time.monotonic()
            try:
                status = await self._send(manner)
            finally:
                del self._since[one]
            self._endings.append(Ending(status, time.monotonic() - began))
            await asyncio.sleep(self._back_after_seconds)

    async def _send(self, manner: Manner) -> int:
        reader, writer = await asyncio.open_connection(*self._place)
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


if __name__ == "__main__":
    host, port, number, back_after_seconds, *names = sys.argv[1:]
    people = Crowd(host, int(port), float(back_after_seconds))
    sys.stdout.write(asyncio.run(people.stay(int(number), [MANNERS[name] for name in names])))
