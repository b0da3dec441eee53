"""Test doubles: the cache of one worker process, a counting loader, and a proxy before Valkey."""

import asyncio
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from redis.asyncio import Redis

from coherent_cache.channel import Channel
from coherent_cache.config import CacheConfig
from coherent_cache.entry import Entry
from coherent_cache.memory import Memory
from coherent_cache.reader import Reader
from coherent_cache.store import Store
from coherent_cache.trust import Trust


def config_of(url: str) -> CacheConfig:
    """Return a configuration with timeouts that a busy machine does not exceed."""
    return CacheConfig(
        valkey_url=url,
        namespace="c",
        code_version="r",
        timeout_seconds=30,
        slow_seconds=30,
        memory_ttl_seconds=3_600,
        concurrent_bypasses=2,
    )


@dataclass(frozen=True)
class Worker:
    """The parts of the cache in one process."""

    store: Store
    memory: Memory
    channel: Channel
    reader: Reader


CONFIG = config_of("")  # for the parts that do not connect


def make_worker(valkey: Redis, **limits: Any) -> Worker:
    """Connect the parts as `Cache` does. Nothing runs in the background."""
    config = replace(CONFIG, **limits)
    store = Store(valkey, config)
    memory = Memory(config.memory_bytes, config.memory_ttl_seconds)
    channel = Channel(valkey, store.channel, memory)
    trust = trust_after_clean_poll(memory)
    reader = Reader(store, memory, channel, trust, config)
    return Worker(store, memory, channel, reader)


def trust_after_clean_poll(memory: Memory) -> Trust:
    trust = Trust(memory)
    trust.polled(time.monotonic(), behind_seconds=0)
    return trust


class Loader:
    """Stands for the database. It counts its loads, and can be told to block or to fail."""

    def __init__(self, value: bytes = b"1") -> None:
        self.value = value
        self.loads = self.running = self.max_running = 0
        self.started = asyncio.Event()
        self.may_finish = asyncio.Event()
        self.may_finish.set()
        self.error: Exception | None = None

    async def load(self, key: str = "key") -> Entry:
        entry = Entry(key, (f"tag:{key}",), self.value)
        self.loads += 1
        self.running += 1
        self.max_running = max(self.running, self.max_running)
        self.started.set()
        await asyncio.sleep(0)
        await self.may_finish.wait()
        self.running -= 1
        if self.error is not None:
            raise self.error
        return entry


class Proxy:
    """A TCP proxy before Valkey. It can be stopped, go silent, or delay answers.

    Every answer of Valkey is forwarded `delay_seconds` later.
    """

    def __init__(self, valkey_url: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.delay_seconds = 0.0
        self._valkey_url = valkey_url
        self._valkey_port = urlsplit(valkey_url).port
        self._server: asyncio.Server | None = None
        self._writers: list[asyncio.StreamWriter] = []
        self._silent: list[asyncio.StreamWriter] = []

    @property
    def url(self) -> str:
        """The URL of Valkey through this proxy."""
        return self._valkey_url.replace(f":{self._valkey_port}/", f":{self.port}/")

    async def start(self) -> None:
        """Listen. Every start uses the same port."""
        self._server = await asyncio.start_server(self._forward, "127.0.0.1", self.port)

    def stop(self) -> None:
        """Break every connection, and refuse new ones."""
        if self._server is not None:
            self._server.close()
        for writer in self._writers:
            writer.transport.abort()

    def go_silent(self) -> None:
        """Forward nothing more on the existing connections, without closing them."""
        self._silent += self._writers

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._valkey_port)
        self._writers += [writer, far_writer]
        replies = self._copy(far_reader, writer, is_delayed=True)
        await asyncio.gather(self._copy(reader, far_writer), replies)

    async def _copy(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        is_delayed: bool = False,
    ) -> None:
        loop, due = asyncio.get_running_loop(), 0.0
        with suppress(OSError):
            while data := await reader.read(65_536):
                if writer not in self._silent:
                    # The data must keep its order when the delay becomes shorter.
                    due = max(due, loop.time() + self.delay_seconds * is_delayed)
                    loop.call_at(due, writer.write, data)
        loop.call_at(due, writer.close)


async def eventually(condition: Callable[[], object]) -> None:
    """Wait until the condition is true."""
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.001)
