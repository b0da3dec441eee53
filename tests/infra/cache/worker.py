"""What one worker process holds of the cache, and a way to lose Valkey."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

from redis.asyncio import Redis

from app.infra.cache.breaker import NEVER
from app.infra.cache.channel import Channel
from app.infra.cache.entry import Entry
from app.infra.cache.memory import Memory
from app.infra.cache.read_through import ReadThrough
from app.infra.cache.store import Store
from app.infra.cache.trust import Trust
from app.sections import ValkeySettings

NAMES = ("c", "r")  # the namespace, and the release


@dataclass(frozen=True)
class Worker:
    """The parts of the cache in one process."""

    store: Store
    memory: Memory
    channel: Channel
    reader: ReadThrough


def make_worker(
    valkey: Redis, bypass: int = 2, *, slow_seconds: float = NEVER, cache_seconds: float = NEVER
) -> Worker:
    """Wire the parts together, as the application does."""
    store = Store(valkey, *NAMES, slow_seconds)
    memory = Memory(max_bytes=1_000_000, ttl_seconds=3_600)
    channel = Channel(valkey, store.channel, memory)
    reader = ReadThrough(store, memory, channel, trusting(memory), bypass, cache_seconds)
    return Worker(store, memory, channel, reader)


def trusting(memory: Memory) -> Trust:
    """Return the trust of a process that has looked at the outbox just now, and found nothing."""
    trust = Trust(memory)
    trust.looked(time.monotonic(), behind_seconds=0)
    return trust


class Source:
    """The database: counts its loads, and holds them up when it is told to."""

    def __init__(self, value: bytes = b"1") -> None:
        self.value = value
        self.loads = self.running = self.most_running = 0
        self.begun = asyncio.Event()
        self.may_end = asyncio.Event()
        self.may_end.set()
        self.error: Exception | None = None

    async def load(self, key: str = "key") -> Entry:
        entry = Entry(key, (f"tag:{key}",), self.value)
        self.loads += 1
        self.running += 1
        self.most_running = max(self.running, self.most_running)
        self.begun.set()
        await asyncio.sleep(0)
        await self.may_end.wait()
        self.running -= 1
        if self.error is not None:
            raise self.error
        return entry


class Proxy:
    """Stands before Valkey on a port of its own. It can be away, go silent, or be slow.

    Whatever Valkey answers is passed on `delay_seconds` later.
    """

    def __init__(self, valkey: ValkeySettings, port: int = 0) -> None:
        self.port = port
        self.delay_seconds = 0.0
        self._valkey = valkey
        self._valkey_port = urlsplit(valkey.url.get_secret_value()).port
        self._server: asyncio.Server | None = None
        self._writers: list[asyncio.StreamWriter] = []
        self._silent: list[asyncio.StreamWriter] = []

    def settings(self) -> ValkeySettings:
        """Return the settings of a client that goes through here."""
        url = self._valkey.url.get_secret_value()
        url = url.replace(f":{self._valkey_port}/", f":{self.port}/")
        return ValkeySettings.model_validate({"url": url, "timeout_seconds": 5})

    async def start(self) -> None:
        """Listen, on the same port each time."""
        self._server = await asyncio.start_server(self._forward, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    def stop(self) -> None:
        """Break every connection, and refuse new ones."""
        if self._server is not None:
            self._server.close()
        for writer in self._writers:
            writer.transport.abort()

    def go_silent(self) -> None:
        """Let nothing through any more on the connections that there are, and close none."""
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
                    # Nothing overtakes what came before it.
                    due = max(due, loop.time() + self.delay_seconds * is_delayed)
                    loop.call_at(due, writer.write, data)
        loop.call_at(due, writer.close)


async def eventually(condition: Callable[[], object]) -> None:
    """Wait until it is so."""
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.001)
