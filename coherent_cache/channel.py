"""Receives invalidations that other processes publish, and detects when some may have been missed.

The channel uses a pub/sub connection of its own. redis-py reconnects silently. The only sign of a
reconnect is another `subscribe` message, so each `subscribe` message means that invalidations may
have been missed. A half-open connection is detected by its missing pongs.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

from redis.exceptions import RedisError

from coherent_cache.memory import Memory
from coherent_cache.store import EVERYTHING, Valkey

PING_SECONDS = 0.5
LIVE_SECONDS = 1.5
RECONNECT_SECONDS = 0.1

# Is called with the tags that were invalidated, or with None if some may have been missed.
OnInvalidated = Callable[[Sequence[str] | None], None]


class Channel:
    """Passes invalidations on to the memory of one process."""

    def __init__(self, valkey: Valkey, name: str, memory: Memory) -> None:
        self._valkey = valkey
        self._name = name
        self._memory = memory
        self.callbacks: list[OnInvalidated] = []
        self._last_pong = float("-inf")
        self._pubsub: Any = None

    @property
    def is_live(self) -> bool:
        """Whether a pong arrived recently, so that the memory may be used.

        This compares clocks on every call. A process that was suspended therefore does not use its
        memory before the next pong.
        """
        return time.monotonic() - self._last_pong < LIVE_SECONDS

    async def run(self) -> None:
        """Listen until cancelled. Reconnect whenever the connection is lost."""
        while True:
            try:
                await self._listen()
            except (RedisError, OSError, TimeoutError):
                pass  # the store's breaker logs that Valkey is unreachable
            finally:
                self._last_pong = float("-inf")
            await asyncio.sleep(RECONNECT_SECONDS)

    async def _listen(self) -> None:
        await self._valkey.initialize()  # a cluster client needs this to find the channel's node
        async with self._valkey.pubsub() as pubsub:
            await pubsub.subscribe(self._name)
            self._pubsub = pubsub
            next_ping, began = 0.0, time.monotonic()
            while True:
                if (now := time.monotonic()) >= next_ping:
                    if now - max(began, self._last_pong) > LIVE_SECONDS:
                        raise TimeoutError  # the connection is half-open: no error will ever come
                    if self._is_on_wrong_node():
                        return
                    await pubsub.ping()
                    next_ping = now + PING_SECONDS
                async with asyncio.timeout(LIVE_SECONDS):
                    message = await pubsub.get_message(timeout=next_ping - now)
                if message is not None:
                    self.handle(message)

    def _is_on_wrong_node(self) -> bool:
        """Whether this node may miss messages. A single server receives all of them."""
        return False

    def handle(self, message: dict[str, Any]) -> None:
        """Act on one message of the connection."""
        if message["type"] == "subscribe":
            self._memory.clear()
            self._call_back(None)
        elif message["type"] == "pong":
            self._last_pong = time.monotonic()
        elif message["type"] == "message":
            self._handle_invalidation(message["data"].decode())

    def _handle_invalidation(self, tags: str) -> None:
        if tags == EVERYTHING:
            self._memory.clear()
            self._call_back(None)
        else:
            names = tags.split("\n")
            self._memory.invalidate(names)
            self._call_back(names)

    def _call_back(self, tags: Sequence[str] | None) -> None:
        for callback in self.callbacks:
            callback(tags)
