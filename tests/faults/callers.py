"""Clients that never retry: every request that one of them loses was lost by the service.

Some keep their connection, and some open one for each request. They read, they write, and they
send bodies that the route does not read.
"""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from dev.address import Address
from tests.faults.pauses import Pauses
from tests.faults.wire import Reply, Wire

KEEPING, OPENING = 16, 8
PAUSE_SECONDS = 0.01
MOST_SECONDS = 120.0
JSON = {"Content-Type": "application/json"}
SHORT, LONG = "x" * 1_000, "x" * 200_000


@dataclass
class Calls:
    """The replies to all clients."""

    replies: list[Reply] = field(default_factory=list)
    pauses: Pauses = field(default_factory=Pauses)

    @property
    def lost(self) -> Counter[str]:
        """The requests that did not get status 200, by outcome."""
        return Counter(
            f"status {one.status}" if one.status else "no response"
            for one in self.replies
            if one.status != 200
        )

    def broken(self, least: int) -> list[str]:
        """Return the promises that were not kept, or that too few requests were sent."""
        few = len(self.replies) < least
        lost = ", ".join(f"{times} × {what}" for what, times in self.lost.items())
        return [f"lost requests: {lost}"] * bool(lost) + [
            f"only {len(self.replies)} requests"
        ] * few

    def slowest(self, since: float, until: float = float("inf")) -> float:
        """Return the longest time of a request that was sent in this interval."""
        sent = (one for one in self.replies if since <= one.sent_at < until)
        return max(self.pauses.without(one).seconds for one in sent)


async def call(wire: Wire, path: str, calls: Calls, *, keeps: bool) -> None:
    """Send requests again and again."""
    while True:
        await asyncio.sleep(random.uniform(0, PAUSE_SECONDS))
        match random.randrange(10):
            case 0:
                reply = await wire.write("POST", "/faults/unread", JSON, LONG)
            case 1 | 2 | 3:
                reply = await wire.write("POST", "/faults/echo", JSON, SHORT)
            case _:
                reply = await wire.get(path)
        calls.replies.append(reply)
        if not keeps:
            wire.close()


@asynccontextmanager
async def calling(address: Address, path: str) -> AsyncIterator[Calls]:
    """Let all clients send requests until the block is left."""
    calls, keeps = Calls(), [True] * KEEPING + [False] * OPENING
    wires = [Wire(address) for _ in keeps]
    tasks = [
        asyncio.create_task(call(wire, path, calls, keeps=keep))
        for wire, keep in zip(wires, keeps, strict=True)
    ]
    try:
        async with calls.pauses.watched():
            yield calls
    finally:
        for task in tasks:
            task.cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        for wire in wires:
            wire.close()
        raise_first(done)


async def until_enough(calls: Calls, least: int) -> None:
    """Wait until at least `least` requests were answered."""
    async with asyncio.timeout(MOST_SECONDS):
        while len(calls.replies) < least:
            await asyncio.sleep(0.1)


def raise_first(results: Sequence[BaseException | None]) -> None:
    """Raise the first error of a client itself, so that it is not hidden."""
    for result in results:
        if result is not None and not isinstance(result, asyncio.CancelledError):
            raise result
