"""Where worlds are made: a loop that stands still between two steps, and a clock likewise."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

import pytest
from redis.asyncio import Redis

from app.infra.cache import budget, channel, read_through, relay, store, trust

FEW_LOGGED_TAGS = 8  # so that the log is trimmed now and then
LONG_SECONDS = 3_600
TURNS = 12  # of the event loop: then whoever can go on has gone on

T = TypeVar("T")


class Clock:
    """A `time` that moves when it is told to."""

    now = 1_000.0

    def monotonic(self) -> float:
        return self.now


class Laboratory:
    """A client of Valkey, and the code's waits taken out."""

    def __init__(self, valkey: Redis, patch: pytest.MonkeyPatch) -> None:
        self.valkey, self.clock = valkey, Clock()
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(lambda *_: None)  # what a killed process has left
        for module in (channel, read_through, relay, trust):
            patch.setattr(module, "time", self.clock)
        for name in ("SHORTEST_LOOK", "LONGEST_LOOK"):
            patch.setattr(read_through, name, 0)
        patch.setattr(budget, "READ_SECONDS", LONG_SECONDS)
        patch.setattr(store, "MOST_LOGGED_TAGS", FEW_LOGGED_TAGS)
        patch.setattr(trust, "LEASE_SECONDS", 1.0)  # as in production: other tests stand still

    def do(self, step: Awaitable[T]) -> T:
        """Take a step, and let everyone go on as far as they can."""
        return self._loop.run_until_complete(self._settled(step))

    async def _settled(self, step: Awaitable[T]) -> T:
        result = await step
        for _ in range(TURNS):
            await asyncio.sleep(0)
        return result

    def close(self) -> None:
        self.do(self.valkey.aclose())
        self._loop.close()
