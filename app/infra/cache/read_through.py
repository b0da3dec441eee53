"""Reads through both tiers, loads once for many, and never stores what may be old.

It fails open: a broken cache makes the service slower, never wrong. Source of leases: Nishtala et
al., *Scaling Memcache at Facebook*, NSDI 2013.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from enum import StrEnum
from typing import NamedTuple

from app.errors import Unavailable
from app.infra.background import detached
from app.infra.cache.channel import Channel
from app.infra.cache.entry import Entry
from app.infra.cache.memory import Memory
from app.infra.cache.store import CACHE_ERRORS, Lease, Miss, Store, Wait, new_lease_token
from app.infra.metrics import CACHE_REFUSED

Load = Callable[[], Awaitable[Entry]]

LONGEST_WAIT_SECONDS = 0.5
SHORTEST_LOOK, LONGEST_LOOK = 0.005, 0.015
BYPASS_SECONDS = 1.0
LOAD_SECONDS = 2.0  # below the life of a lease: it does not end under its load


class Source(StrEnum):
    """Where an answer came from, in the words of the header X-Cache."""

    MEMORY = "HIT-L1"
    VALKEY = "HIT"
    LOAD = "MISS"
    PAST = "BYPASS"


class Answer(NamedTuple):
    """An entry, and where it came from."""

    entry: Entry
    source: Source


class ReadThrough:
    """Both tiers, one a process.

    A read that begins after a write was acknowledged sees it: at once with `skip_memory`, else as
    soon as the channel has brought the message.
    """

    def __init__(self, store: Store, memory: Memory, channel: Channel, bypass: int) -> None:
        self._store = store
        self._memory = memory
        self._channel = channel
        self._bypass = asyncio.Semaphore(bypass)
        self._waiting: dict[str, asyncio.Task[Answer]] = {}
        self._running: dict[str, asyncio.Task[Answer]] = {}

    def remembered(self, key: str) -> Entry | None:
        """Return the entry of the process's own memory, while the channel is live."""
        return self._memory.get(key) if self._channel.is_live else None

    def has_copy(self, key: str) -> bool:
        """Whether there is an entry in memory, be it fresh or not."""
        return self._memory.copy(key) is not None

    async def read(self, key: str, load: Load, *, skip_memory: bool = False) -> Answer:
        """Return the entry, loading it if need be. What `load` raises is raised, and not stored.

        A load serves everyone who came before it began, stored or not; whoever comes later looks
        again. So at most one is running and one is waiting, for each key. A load that takes longer
        than LOAD_SECONDS, or finds no place while Valkey is away, is `Unavailable`.
        """
        if not skip_memory and (entry := self.remembered(key)) is not None:
            return Answer(entry, Source.MEMORY)
        miss: Miss | None = None
        if key not in self._waiting:
            found = await self._look_up(key)
            if isinstance(found, Entry):
                return Answer(found, Source.VALKEY)
            miss = found
        task = self._waiting.get(key)
        if task is None:
            # The load is shared, so nothing of the first caller's request may reach the others.
            task = detached(self._run(key, load, miss))
            task.add_done_callback(_note_error)
            self._waiting[key] = task
        return await asyncio.shield(task)  # one who leaves does not take the load along

    async def _look_up(self, key: str) -> Entry | Miss | None:
        """Look up at Valkey, and remember what is found. None when it cannot be asked."""
        if not self._store.breaker.allows():
            return None
        began = self._memory.begin()
        try:
            copy = self._memory.copy(key)
            if copy is not None and await self._store.is_valid(copy):
                found: Entry | Miss = copy
            else:
                self._memory.forget(key)
                found = await self._store.look_up(key)
        except CACHE_ERRORS:
            return None
        if isinstance(found, Entry):
            self._memory.put(found, began)
        return found

    async def _run(self, key: str, load: Load, miss: Miss | None) -> Answer:
        if (before := self._running.get(key)) is not None:
            await asyncio.wait({before})
        task = self._running[key] = self._waiting.pop(key)
        try:
            if before is not None:  # it has stored something, perhaps
                return await self._open(key, load, await self._look_up(key))
            return await self._open(key, load, miss)
        finally:
            if self._running.get(key) is task:
                del self._running[key]

    async def _open(self, key: str, load: Load, found: Entry | Miss | None) -> Answer:
        """Load, and be the only one who does; or find what somebody else has loaded."""
        token = new_lease_token()
        patience = time.monotonic() + LONGEST_WAIT_SECONDS
        while isinstance(found, Miss):
            began = self._memory.begin()
            anyway = time.monotonic() > patience
            try:
                answer = await self._store.lease(key, token, found.judged, anyway=anyway)
            except CACHE_ERRORS:
                break
            if isinstance(answer, Lease):
                return await self._load_and_fill(key, load, answer, began)
            if isinstance(answer, Wait):
                await asyncio.sleep(random.uniform(SHORTEST_LOOK, LONGEST_LOOK))  # noqa: S311
            found = await self._look_up(key)
        if isinstance(found, Entry):
            return Answer(found, Source.VALKEY)
        return await self._load_past(load)

    async def _load_and_fill(self, key: str, load: Load, lease: Lease, began: int) -> Answer:
        try:
            entry = await _in_time(load)
        except BaseException:
            await asyncio.shield(self._release(key, lease))
            raise
        try:
            stored = await self._store.fill(entry, lease)
        except CACHE_ERRORS:
            stored = False
        if stored:
            self._memory.put(entry, began)
        else:
            CACHE_REFUSED.inc()
            await self._release(key, lease)
        return Answer(entry, Source.LOAD)

    async def _release(self, key: str, lease: Lease) -> None:
        with suppress(*CACHE_ERRORS):  # it ends by itself
            await self._store.release(key, lease)

    async def _load_past(self, load: Load) -> Answer:
        """Load without the cache: few at a time, so that a dead cache is not a dead database."""
        try:
            async with asyncio.timeout(BYPASS_SECONDS):
                await self._bypass.acquire()
        except TimeoutError:
            raise Unavailable("The cache is away, and the database is busy.") from None
        try:
            return Answer(await _in_time(load), Source.PAST)
        finally:
            self._bypass.release()


async def _in_time(load: Load) -> Entry:
    try:
        async with asyncio.timeout(LOAD_SECONDS):
            return await load()
    except TimeoutError:
        raise Unavailable("The database took too long.") from None


def _note_error(task: asyncio.Task[Answer]) -> None:
    """Take note of an error for which everybody who asked has left."""
    if not task.cancelled():
        task.exception()
