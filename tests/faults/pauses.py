"""When clients did not run, because the service or other clients used all cores.

A client cannot see a reply that is there already while it waits for a core itself. So that time is
not the service's. A pause that ended before the reply came is no excuse: when the client continued,
the reply was not there.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.faults.wire import Reply

BEAT_SECONDS, LATE_SECONDS = 0.002, 0.01


class Pauses:
    """The times at which the event loop of the clients continued much later than planned."""

    def __init__(self) -> None:
        self._found: list[tuple[float, float]] = []

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Look for pauses until the block is left."""
        task = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            task.cancel()

    def without(self, reply: Reply) -> Reply:
        """Return the reply as if it had come when the pause began in which it came."""
        for at, end in self._found:
            if at < reply.came_at < end + LATE_SECONDS:  # many replies may have come
                return reply._replace(came_at=max(reply.sent_at, at))
        return reply

    async def _watch(self) -> None:
        while True:
            planned = time.monotonic() + BEAT_SECONDS
            await asyncio.sleep(BEAT_SECONDS)
            if (ran_at := time.monotonic()) > planned + LATE_SECONDS:
                self._found.append((planned, ran_at))
