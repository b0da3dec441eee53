"""Hears of changes that others made, and knows when it may have missed one.

A connection of its own. The client reconnects without a word; the only sign is another `subscribe`
message, and each of them means that something may have gone unheard. A connection that is dead
without being closed is found by its missing pongs.
"""

import asyncio
import time
from typing import Any

from redis.exceptions import RedisError

from app.infra.cache.client import Valkey
from app.infra.cache.memory import Memory
from app.infra.cache.store import EVERYTHING

PING_SECONDS = 0.5
LIVE_SECONDS = 1.5
RECONNECT_SECONDS = 0.1


class Channel:
    """Feeds one process's memory. `is_live` is computed when it is asked."""

    def __init__(self, valkey: Valkey, name: str, memory: Memory) -> None:
        self._valkey = valkey
        self._name = name
        self._memory = memory
        self._last_pong = float("-inf")
        self._pubsub: Any = None

    @property
    def is_live(self) -> bool:
        """Whether the memory can be trusted at this moment."""
        return time.monotonic() - self._last_pong < LIVE_SECONDS

    async def run(self) -> None:
        """Listen until cancelled, through every loss of the connection."""
        while True:
            try:
                await self._listen()
            except (RedisError, OSError, TimeoutError):
                pass  # the breaker of the store says so
            finally:
                self._last_pong = float("-inf")
            await asyncio.sleep(RECONNECT_SECONDS)

    async def _listen(self) -> None:
        await self._valkey.initialize()  # a cluster's client finds the channel's node
        async with self._valkey.pubsub() as pubsub:
            await pubsub.subscribe(self._name)
            self._pubsub = pubsub
            next_ping, began = 0.0, time.monotonic()
            while True:
                if (now := time.monotonic()) >= next_ping:
                    if now - max(began, self._last_pong) > LIVE_SECONDS:
                        raise TimeoutError  # half-open: nobody will ever tell us
                    if self._is_misplaced():
                        return
                    await pubsub.ping()
                    next_ping = now + PING_SECONDS
                async with asyncio.timeout(LIVE_SECONDS):
                    message = await pubsub.get_message(timeout=next_ping - now)
                if message is not None:
                    self.hear(message)

    def _is_misplaced(self) -> bool:
        """Whether it listens where not everything is told. A single server tells everything."""
        return False

    def hear(self, message: dict[str, Any]) -> None:
        """Act on one message of the connection."""
        if message["type"] == "subscribe":
            self._memory.clear()
        elif message["type"] == "pong":
            self._last_pong = time.monotonic()
        elif message["type"] == "message":
            self._hear_change(message["data"].decode())

    def _hear_change(self, tags: str) -> None:
        if tags == EVERYTHING:
            self._memory.clear()
        else:
            self._memory.drop(tags.split("\n"))
