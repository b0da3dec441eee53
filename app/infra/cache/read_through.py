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
from app.infra.cache.breaker import NEVER
from app.infra.cache.budget import Budget
from app.infra.cache.channel import Channel
from app.infra.cache.entry import Entry
from app.infra.cache.memory import Memory
from app.infra.cache.store import CACHE_ERRORS, Lease, Miss, Store, Wait, new_lease_token
from app.infra.cache.trust import Trust
from app.infra.metrics import CACHE_REFUSED

Load = Callable[[], Awaitable[Entry]]

LONGEST_WAIT_SECONDS = 0.5
SHORTEST_LOOK, LONGEST_LOOK = 0.005, 0.015
BYPASS_SECONDS = 1.0


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

    def __init__(
        self,
        store: Store,
        memory: Memory,
        channel: Channel,
        trust: Trust,
        bypass: int,
        cache_seconds: float = NEVER,
    ) -> None:
        self._store = store
        self._trust = trust
        self._cache_seconds = cache_seconds
        self._memory = memory
        self._channel = channel
        self._bypass = asyncio.Semaphore(bypass)
        self._waiting: dict[str, asyncio.Task[Answer]] = {}
        self._running: dict[str, asyncio.Task[Answer]] = {}

    def remembered(self, key: str) -> Entry | None:
        """Return the entry of the process's own memory, while it may be believed."""
        return self._memory.get(key) if self._trust.holds and self._channel.is_live else None

    def has_copy(self, key: str) -> bool:
        """Whether there is an entry in memory, be it fresh or not."""
        return self._memory.copy(key) is not None

    async def read(self, key: str, load: Load, *, skip_memory: bool = False) -> Answer:
        """Return the entry, loading it if need be. What `load` raises is raised, and not stored.

        A load serves everyone who came before it began, stored or not; whoever comes later looks
        again. So at most one is running and one is waiting, for each key. A read that takes longer
        than READ_SECONDS, with all that it waits for, or finds no place to load past the cache, is
        `Unavailable`.
        """
        if not skip_memory and (entry := self.remembered(key)) is not None:
            return Answer(entry, Source.MEMORY)
        budget, miss = self._new_budget(), None
        if key not in self._waiting:
            found = await self._look_up(key, budget)
            if isinstance(found, Entry):
                return Answer(found, Source.VALKEY)
            miss = found
        task = self._waiting.get(key)
        if task is None:
            # The load is shared, so nothing of the first caller's request may reach the others.
            task = detached(self._run(key, load, miss, budget))
            task.add_done_callback(_note_error)
            self._waiting[key] = task
        # One who leaves does not take the load along.
        return await budget.until_deadline(asyncio.shield(task))

    def _new_budget(self) -> Budget:
        return Budget(self._cache_seconds, self._store.breaker.slow_seconds)

    async def _look_up(self, key: str, budget: Budget) -> Entry | Miss | None:
        """Look up at Valkey, and remember an entry. None when Valkey must not or cannot answer."""
        if not self._trust.holds or not self._store.breaker.allows():
            return None
        began = self._memory.begin()
        try:
            found = await budget.cache_step(self._find(key))
        except CACHE_ERRORS:
            return None
        if isinstance(found, Entry):
            self._memory.put(found, began)
        return found

    async def _find(self, key: str) -> Entry | Miss:
        copy = self._memory.copy(key)
        if copy is not None and await self._store.is_valid(copy):
            return copy
        self._memory.forget(key)
        return await self._store.look_up(key)

    async def _run(self, key: str, load: Load, miss: Miss | None, budget: Budget) -> Answer:
        if (before := self._running.get(key)) is not None:
            await asyncio.wait({before})
        task = self._running[key] = self._waiting.pop(key)
        try:
            if before is None:
                return await self._open(key, load, miss, budget)
            # The load before may have stored an entry. The last caller has a full budget left.
            budget = self._new_budget()
            return await self._open(key, load, await self._look_up(key, budget), budget)
        finally:
            if self._running.get(key) is task:
                del self._running[key]
            del task  # it keeps its error, whose traceback keeps this frame

    async def _open(
        self, key: str, load: Load, found: Entry | Miss | None, budget: Budget
    ) -> Answer:
        """Load, and be the only one who does; or find what somebody else has loaded.

        No lease is asked of a slow cache: nobody could say in time that it was not used.
        """
        token = new_lease_token()
        patience = time.monotonic() + LONGEST_WAIT_SECONDS
        while isinstance(found, Miss) and not (budget.is_cache_slow or self._store.breaker.is_open):
            began = self._memory.begin()
            anyway = time.monotonic() > patience
            try:
                answer = await budget.cache_step(
                    self._store.lease(key, token, found.judged, anyway=anyway)
                )
            except CACHE_ERRORS:
                break
            if isinstance(answer, Lease):
                return await self._load_and_fill(key, load, answer, began, budget)
            if isinstance(answer, Wait):
                await asyncio.sleep(random.uniform(SHORTEST_LOOK, LONGEST_LOOK))  # noqa: S311
            found = await self._look_up(key, budget)
        if isinstance(found, Entry):
            return Answer(found, Source.VALKEY)
        return await self._load_past(load, budget)

    async def _load_and_fill(
        self, key: str, load: Load, lease: Lease, began: int, budget: Budget
    ) -> Answer:
        try:
            entry = await budget.until_deadline(load())
        except BaseException:
            await asyncio.shield(self._release(key, lease, budget))
            raise
        try:
            stored = self._trust.holds and await budget.cache_step(self._store.fill(entry, lease))
        except CACHE_ERRORS:
            stored = False
        if stored:
            self._memory.put(entry, began)
        else:
            CACHE_REFUSED.inc()
            await self._release(key, lease, budget)
        return Answer(entry, Source.LOAD)

    async def _release(self, key: str, lease: Lease, budget: Budget) -> None:
        with suppress(*CACHE_ERRORS):  # it ends by itself
            await budget.cache_step(self._store.release(key, lease))

    async def _load_past(self, load: Load, budget: Budget) -> Answer:
        """Load without the cache: few at a time, so that a dead cache is not a dead database."""
        try:
            async with asyncio.timeout(BYPASS_SECONDS):
                await self._bypass.acquire()
        except TimeoutError:
            raise Unavailable("The cache is away, and the database is busy.") from None
        try:
            return Answer(await budget.until_deadline(load()), Source.PAST)
        finally:
            self._bypass.release()


def _note_error(task: asyncio.Task[Answer]) -> None:
    """Take note of an error for which everybody who asked has left."""
    if not task.cancelled():
        task.exception()
