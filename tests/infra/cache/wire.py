"""A process whose every command waits: to be sent, and once it is done, for its answer to come.

What runs between is the real Store, Memory, Channel and ReadThrough.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Collection
from functools import partial
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ReadOnlyError

from app.infra.cache.channel import Channel
from app.infra.cache.entry import Entry
from app.infra.cache.invalidation import Invalidation
from app.infra.cache.memory import Memory
from app.infra.cache.outbox import Outbox
from app.infra.cache.read_through import Answer, ReadThrough
from app.infra.cache.relay import Relay
from app.infra.cache.store import Store
from app.infra.cache.trust import Trust
from app.sections import CacheSettings
from tests.infra.cache.database import Change, Seen
from tests.infra.cache.worker import NAMES

Run = Callable[[], Awaitable[Any]]

LONG_SECONDS = 3_600
MEMORY_BYTES = 1_000_000


class Command:
    """One of MGET, LEASE, FILL, RELEASE, or LOAD, which is the database's."""

    def __init__(self, name: str, run: Run) -> None:
        self.name = name
        self._run = run
        self._reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.is_sent = False
        self.answer: Any = None
        self._refusal: ReadOnlyError | None = None

    async def send(self) -> Any:
        """Do it, again perhaps, as a client does that has had no answer. It may be refused."""
        self.is_sent = True
        self.answer = self._refusal = None
        try:
            self.answer = await self._run()
        except ReadOnlyError as refusal:
            self._refusal = refusal
        return self.answer

    def receive(self) -> None:
        if self._refusal is not None:
            self._reply.set_exception(self._refusal)
        else:
            self._reply.set_result(self.answer)

    def fail(self, error: Exception) -> None:
        if not self._reply.done():
            self._reply.set_exception(error)

    async def wait(self) -> Any:
        return await self._reply


class Mood:
    """Which writes Valkey refuses. It answers reads in any case."""

    def __init__(self) -> None:
        self.refused: Collection[str] = ()

    def accept(self, write: str) -> None:
        """Raise what a replica answers to a write."""
        if write in self.refused:
            raise ReadOnlyError("You can't write against a read only replica.")


class SteppedStore(Store):
    """The real store, whose commands wait in `pending`."""

    def __init__(self, valkey: Redis, mood: Mood) -> None:
        super().__init__(valkey, *NAMES)
        self._mood = mood
        self.pending: list[Command] = []
        self.is_dead = False
        for name in ("lease", "fill", "release"):
            stepped = partial(self._stepped, name.upper(), getattr(self, f"_{name}"))
            setattr(self, f"_{name}", stepped)

    async def ask(self, name: str, run: Run) -> Any:
        """Wait until the test has sent the command, and has let its answer come."""
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
            self._mood.accept(name)
            return await script(keys=keys, args=args)

        return await self.ask(name, run)

    async def probe(self) -> None:
        self._mood.accept("PROBE")

    async def _mget(self, names: tuple[str, ...]) -> list[bytes | None]:
        if not names:
            return []
        found: list[bytes | None] = await self.ask("MGET", partial(super()._mget, names))
        return found


class Process:
    """One worker: its memory, its channel with what is on the way to it, and its commands."""

    def __init__(self, valkey: Redis, mood: Mood, outbox: Outbox) -> None:
        self.store = SteppedStore(valkey, mood)
        self.memory = Memory(MEMORY_BYTES, LONG_SECONDS)
        self.channel = Channel(valkey, self.store.channel, self.memory)
        self.trust = Trust(self.memory)
        self.reader = ReadThrough(self.store, self.memory, self.channel, self.trust, bypass=10)
        invalidation = Invalidation(self.store, self.memory, self.trust, NAMES[0])
        self.relay = Relay(outbox, self.store, invalidation, self.trust, CacheSettings())
        self.is_connected = True
        self.inbox: deque[tuple[bytes | None, Seen]] = deque([(None, Seen())])
        self.heard = Seen()
        self.deliver()

    def read(self, key: str, load: Callable[[], Awaitable[Entry]]) -> asyncio.Task[Answer]:
        """Begin a read that goes to Valkey. Its load is a command like the others."""
        stepped = partial(self.store.ask, "LOAD", load)
        return asyncio.create_task(self.reader.read(key, stepped, skip_memory=True))

    def publish(self, message: bytes, acknowledged: Seen) -> None:
        """Put a message on the way, if there is a connection."""
        if self.is_connected:
            self.inbox.append((message, acknowledged.copy()))

    def deliver(self) -> None:
        """Let the oldest message arrive. Whatever it tells of must be seen from now on."""
        message, self.heard = self.inbox.popleft()
        if message is None:
            self.channel.hear({"type": "subscribe", "data": 1})
        else:
            self.channel.hear({"type": "message", "data": message})
        self.pong()

    def pong(self) -> None:
        """Hear that the connection is alive, if it is and nothing is on the way before that."""
        if self.is_connected and not self.inbox:
            self.channel.hear({"type": "pong", "data": b""})

    def cut(self, *, noticed: bool) -> None:
        """Lose the connection with all that is on the way."""
        self.is_connected = False
        self.inbox.clear()
        if noticed:
            self.channel._last_pong = float("-inf")

    def subscribe(self, acknowledged: Seen) -> None:
        """Connect again; the process has not heard of it yet."""
        self.is_connected = True
        self.inbox.append((None, acknowledged.copy()))

    def drop_own(self, change: Change) -> None:
        """Do what a writer does after INVALIDATE."""
        self.memory.drop([*change.tags])
        self.heard.add(change)

    def die(self) -> None:
        """Say and hear nothing any more. What was sent may still arrive."""
        self.store.is_dead = True
        for command in self.store.pending:
            command.fail(ConnectionError())
