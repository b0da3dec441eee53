"""A process whose commands wait: a test decides when each is sent and when its answer arrives.

The process uses the real Store, Memory, Channel, Trust, Relay and Reader.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Collection
from dataclasses import replace
from functools import partial
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ReadOnlyError

from coherent_cache.channel import Channel
from coherent_cache.entry import Entry
from coherent_cache.invalidation import Invalidation
from coherent_cache.memory import Memory
from coherent_cache.outbox import Outbox
from coherent_cache.reader import Answer, Reader
from coherent_cache.relay import Relay
from coherent_cache.store import Store
from coherent_cache.trust import Trust
from tests.coherent_cache.model_database import Change, RequiredVersions
from tests.coherent_cache.worker import CONFIG

Run = Callable[[], Awaitable[Any]]

LONG_SECONDS = 3_600
MEMORY_BYTES = 1_000_000
LIMITS = replace(CONFIG, timeout_seconds=LONG_SECONDS, concurrent_bypasses=10)


class Command:
    """A command to Valkey (MGET, LEASE, FILL, RELEASE, INVALIDATE), or a LOAD from the database."""

    def __init__(self, name: str, run: Run) -> None:
        self.name = name
        self._run = run
        self._reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.is_sent = False
        self.answer: Any = None
        self._refusal: ReadOnlyError | None = None

    async def send(self) -> Any:
        """Run the command. A client that received no answer may send it again."""
        self.is_sent = True
        self.answer = self._refusal = None
        try:
            self.answer = await self._run()
        except ReadOnlyError as refusal:
            self._refusal = refusal
        return self.answer

    def receive(self) -> None:
        """Let the answer, or the refusal, reach the process."""
        if self._refusal is not None:
            self._reply.set_exception(self._refusal)
        else:
            self._reply.set_result(self.answer)

    def fail(self, error: Exception) -> None:
        if not self._reply.done():
            self._reply.set_exception(error)

    async def wait(self) -> Any:
        return await self._reply


class WriteRefusals:
    """The writes that Valkey refuses at the moment. Valkey always answers reads."""

    def __init__(self) -> None:
        self.refused: Collection[str] = ()

    def check(self, write: str) -> None:
        """Raise the error with which a replica refuses a write."""
        if write in self.refused:
            raise ReadOnlyError("You can't write against a read only replica.")


class SteppedStore(Store):
    """The real store, except that its commands wait in `pending`."""

    def __init__(self, valkey: Redis, refusals: WriteRefusals) -> None:
        super().__init__(valkey, CONFIG)
        self._refusals = refusals
        self.pending: list[Command] = []
        self.is_dead = False
        for name in ("lease", "fill", "release"):
            stepped = partial(self._stepped, name.upper(), getattr(self, f"_{name}_script"))
            setattr(self, f"_{name}_script", stepped)

    async def step(self, name: str, run: Run) -> Any:
        """Wait until the test has sent the command and has let its answer arrive."""
        command = Command(name, run)
        if self.is_dead:
            raise ConnectionError
        self.pending.append(command)
        try:
            return await command.wait()
        finally:
            self.pending.remove(command)

    async def _stepped(self, name: str, script: Any, keys: list[str], args: list[Any]) -> Any:
        async def run() -> Any:
            self._refusals.check(name)
            return await script(keys=keys, args=args)

        return await self.step(name, run)

    async def probe(self) -> None:
        self._refusals.check("PROBE")

    async def _mget(self, keys: tuple[str, ...]) -> list[bytes | None]:
        if not keys:
            return []
        found: list[bytes | None] = await self.step("MGET", partial(super()._mget, keys))
        return found


class Process:
    """One worker process: its cache, its pending commands, and the messages on their way to it."""

    def __init__(self, valkey: Redis, refusals: WriteRefusals, outbox: Outbox) -> None:
        self.store = SteppedStore(valkey, refusals)
        self.memory = Memory(MEMORY_BYTES, LONG_SECONDS)
        self.channel = Channel(valkey, self.store.channel, self.memory)
        self.trust = Trust(self.memory)
        self.reader = Reader(self.store, self.memory, self.channel, self.trust, LIMITS)
        invalidation = Invalidation(self.store, self.memory, self.trust, CONFIG.namespace)
        self.relay = Relay(outbox, self.store, invalidation, self.trust, CONFIG, ())
        self.is_connected = True
        # A message, or None for a new subscription, with all that was invalidated before it.
        self.inbox: deque[tuple[bytes | None, RequiredVersions]] = deque()
        self.inbox.append((None, RequiredVersions()))
        self.received = RequiredVersions()
        self.deliver()

    def read(self, key: str, load: Callable[[], Awaitable[Entry]]) -> asyncio.Task[Answer]:
        """Begin a read that goes to Valkey. The load is a pending command, too."""
        stepped = partial(self.store.step, "LOAD", load)
        return asyncio.create_task(self.reader.read(key, stepped, skip_memory=True))

    def publish(self, message: bytes, invalidated: RequiredVersions) -> None:
        """Send a message to this process. It is lost if the channel is disconnected."""
        if self.is_connected:
            self.inbox.append((message, invalidated.copy()))

    def deliver(self) -> None:
        """Deliver the oldest message. From now on, this process must show what it reports."""
        message, self.received = self.inbox.popleft()
        if message is None:
            self.channel.handle({"type": "subscribe", "data": 1})
        else:
            self.channel.handle({"type": "message", "data": message})
        self.pong()

    def pong(self) -> None:
        """Deliver a pong, if the channel is connected and no message must arrive before it."""
        if self.is_connected and not self.inbox:
            self.channel.handle({"type": "pong", "data": b""})

    def disconnect(self, *, noticed: bool) -> None:
        """Lose the channel's connection, with every message on its way."""
        self.is_connected = False
        self.inbox.clear()
        if noticed:
            self.channel._last_pong = float("-inf")

    def reconnect(self, invalidated: RequiredVersions) -> None:
        """Reconnect the channel. The process has not received the `subscribe` message yet."""
        self.is_connected = True
        self.inbox.append((None, invalidated.copy()))

    def invalidate_own_memory(self, change: Change) -> None:
        """Do what a writer does in its own process after INVALIDATE."""
        self.memory.invalidate([*change.tags])
        self.received.add(change)

    def die(self) -> None:
        """Crash. The process receives nothing more, but commands that it sent may still arrive."""
        self.store.is_dead = True
        for command in self.store.pending:
            command.fail(ConnectionError())
