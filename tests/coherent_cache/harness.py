"""Runs simulations step by step: an event loop and a clock that stand still between two steps."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

import pytest
from redis.asyncio import Redis

from coherent_cache import budget, channel, reader, relay, store, trust

MAX_LOGGED_TAGS = 8  # a small log, so that it is trimmed now and then
LONG_SECONDS = 3_600
LOOP_ITERATIONS = 12  # after so many, every task waits for the next step

T = TypeVar("T")


class Clock:
    """Replaces the module `time`. It only moves when a test sets `now`."""

    now = 1_000.0

    def monotonic(self) -> float:
        return self.now


class Harness:
    """A client of Valkey, an event loop and a clock. The waits of the cache are patched out."""

    def __init__(self, valkey: Redis, patch: pytest.MonkeyPatch) -> None:
        self.valkey, self.clock = valkey, Clock()
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(lambda *_: None)  # tasks of killed processes may fail
        for module in (channel, reader, relay, trust):
            patch.setattr(module, "time", self.clock)
        for name in ("MIN_RETRY_SECONDS", "MAX_RETRY_SECONDS"):
            patch.setattr(reader, name, 0)
        patch.setattr(budget, "READ_SECONDS", LONG_SECONDS)
        patch.setattr(store, "MAX_LOGGED_TAGS", MAX_LOGGED_TAGS)
        patch.setattr(trust, "LEASE_SECONDS", 1.0)  # as in production; tests/conftest.py extends it

    def run(self, step: Awaitable[T]) -> T:
        """Take a step, and then let every task run until it waits again."""
        return self._loop.run_until_complete(self._settled(step))

    async def _settled(self, step: Awaitable[T]) -> T:
        result = await step
        for _ in range(LOOP_ITERATIONS):
            await asyncio.sleep(0)
        return result

    def close(self) -> None:
        self.run(self.valkey.aclose())
        self._loop.close()
