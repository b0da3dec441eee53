"""Reads through both tiers, loads once for many, and never stores what may be old.

It fails open: a broken cache makes the service slower, never wrong. Source of leases: Nishtala et
al., *Scaling Memcache at Facebook*, NSDI 2013.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable

from redis.exceptions import RedisError

from app.errors import Unavailable
from app.infra.cache.breaker import Breaker
from app.infra.cache.channel import Channel
from app.infra.cache.entry import Entry
from app.infra.cache.memory import Memory
from app.infra.cache.store import Again, Lease, Store, Wait, new_lease_token

Load = Callable[[], Awaitable[Entry]]

CACHE_ERRORS = (RedisError, OSError, TimeoutError)
LONGEST_WAIT_SECONDS = 0.5
SHORTEST_LOOK, LONGEST_LOOK = 0.005, 0.015
BYPASS_SECONDS = 1.0


class ReadThrough:
    """Both tiers, one a process.

    A read that begins after a write was acknowledged sees it: at once with `skip_memory`, else as
    soon as the channel has brought the message.
    """

    def __init__(self, store: Store, memory: Memory, channel: Channel, bypass: int) -> None:
        self._store = store
        self._memory = memory
        self._channel = channel
        self._breaker = Breaker()
        self._bypass = asyncio.Semaphore(bypass)
        self._waiting: dict[str, asyncio.Task[Entry]] = {}
        self._running: dict[str, asyncio.Task[Entry]] = {}

    def remembered(self, key: str) -> Entry | None:
        """Return the entry of the process's own memory, while the channel is live."""
        return self._memory.get(key) if self._channel.is_live else None

    async def read(self, key: str, load: Load, *, skip_memory: bool = False) -> Entry:
        """Return the entry, loading it if need be. What `load` raises is raised, and not stored.

        A load serves everyone who came before it began, stored or not; whoever comes later looks
        again. So at most one is running and one is waiting, for each key.
        """
        if not skip_memory and (entry := self.remembered(key)) is not None:
            return entry
        task = self._waiting.get(key)
        if task is None:
            task = asyncio.create_task(self._run(key, load, self._running.get(key)))
            task.add_done_callback(_note_error)
            self._waiting[key] = task
        return await asyncio.shield(task)  # one who leaves does not take the load along

    async def _run(self, key: str, load: Load, before: asyncio.Task[Entry] | None) -> Entry:
        if before is not None:
            await asyncio.wait({before})
        task = self._running[key] = self._waiting.pop(key)
        try:
            return await self._read(key, load)
        finally:
            if self._running.get(key) is task:
                del self._running[key]

    async def _read(self, key: str, load: Load) -> Entry:
        if not self._breaker.allows():
            return await self._load_past(load)
        began = self._memory.begin()
        try:
            found = await self._look_or_lease(key)
        except CACHE_ERRORS:
            self._breaker.failed()
            return await self._load_past(load)
        self._breaker.succeeded()
        if isinstance(found, Lease):
            return await self._load_and_fill(key, load, found, began)
        self._memory.put(found, began)
        return found

    async def _look_or_lease(self, key: str) -> Entry | Lease:
        token = new_lease_token()
        patience = time.monotonic() + LONGEST_WAIT_SECONDS
        while True:
            found = await self._store.look_up(key)
            if isinstance(found, Entry):
                return found
            anyway = time.monotonic() > patience
            answer = await self._store.lease(key, token, found.judged, anyway=anyway)
            if isinstance(answer, Lease):
                return answer
            if isinstance(answer, Wait):
                await asyncio.sleep(random.uniform(SHORTEST_LOOK, LONGEST_LOOK))  # noqa: S311
            else:
                assert isinstance(answer, Again)

    async def _load_and_fill(self, key: str, load: Load, lease: Lease, began: int) -> Entry:
        try:
            entry = await load()
        except BaseException:
            await asyncio.shield(self._release(key, lease))
            raise
        try:
            stored = await self._store.fill(entry, lease)
        except CACHE_ERRORS:
            self._breaker.failed()
            stored = False
        if stored:
            self._memory.put(entry, began)
        else:
            await self._release(key, lease)
        return entry

    async def _release(self, key: str, lease: Lease) -> None:
        try:
            await self._store.release(key, lease)
        except CACHE_ERRORS:
            self._breaker.failed()

    async def _load_past(self, load: Load) -> Entry:
        """Load without the cache: few at a time, so that a dead cache is not a dead database."""
        try:
            async with asyncio.timeout(BYPASS_SECONDS):
                await self._bypass.acquire()
        except TimeoutError:
            raise Unavailable("The cache is away, and the database is busy.") from None
        try:
            return await load()
        finally:
            self._bypass.release()


def _note_error(task: asyncio.Task[Entry]) -> None:
    """Take note of an error for which everybody who asked has left."""
    if not task.cancelled():
        task.exception()
