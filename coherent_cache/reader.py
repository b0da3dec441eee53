"""Reads through both tiers. Concurrent misses share one load, and no stale load is stored.

The reader fails open. With a broken cache, reads are slower, and some are refused to protect the
database, but none is wrong. Leases are described in Nishtala et al., *Scaling Memcache at
Facebook*, NSDI 2013.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from enum import StrEnum
from functools import partial
from typing import NamedTuple

from coherent_cache._tasks import detached
from coherent_cache.budget import Budget, CacheBusy
from coherent_cache.cache_metrics import FILLS_REFUSED
from coherent_cache.channel import Channel
from coherent_cache.config import CacheConfig
from coherent_cache.entry import Entry
from coherent_cache.memory import Memory
from coherent_cache.store import CACHE_ERRORS, Lease, Miss, Store, random_token
from coherent_cache.trust import Trust

Load = Callable[[], Awaitable[Entry]]

MAX_LEASE_WAIT_SECONDS = 0.5
MIN_RETRY_SECONDS, MAX_RETRY_SECONDS = 0.005, 0.015  # while another reader holds the lease
BYPASS_WAIT_SECONDS = 1.0


class Source(StrEnum):
    """Where an answer came from. The values are those of the X-Cache header."""

    MEMORY = "HIT-L1"
    VALKEY = "HIT"
    LOAD = "MISS"
    BYPASS = "BYPASS"


class Answer(NamedTuple):
    """An entry and its source."""

    entry: Entry
    source: Source


class Reader:
    """Reads through the memory of this process and through Valkey.

    A read with `skip_memory` shows every write that was acknowledged before the read began. Without
    `skip_memory`, it shows such a write as soon as the channel has delivered its invalidation.
    """

    def __init__(
        self, store: Store, memory: Memory, channel: Channel, trust: Trust, config: CacheConfig
    ) -> None:
        self._store = store
        self._memory = memory
        self._channel = channel
        self._trust = trust
        self._config = config
        self._bypass = asyncio.Semaphore(config.concurrent_bypasses)
        # Loads by key. A waiting load starts when the running load of the same key has ended.
        self._waiting: dict[str, asyncio.Task[Answer]] = {}
        self._running: dict[str, asyncio.Task[Answer]] = {}

    def get_from_memory(self, key: str) -> Entry | None:
        """Return a fresh entry from this process's memory, if the memory can be trusted."""
        return self._memory.get(key) if self._trust.holds and self._channel.is_live else None

    def get_copy(self, key: str) -> Entry | None:
        """Return the entry that memory holds, fresh or not. It must not be shown before `read`."""
        return self._memory.get_copy(key)

    async def read(self, key: str, load: Load, *, skip_memory: bool = False) -> Answer:
        """Return the entry, and call `load` on a miss. An error of `load` is raised and not stored.

        A load serves only the readers that asked before it began, because it may lack a change that
        later readers must see. Later readers look the entry up again. Each key therefore has at
        most one running and one waiting load.

        Raises `CacheBusy` if the read takes longer than READ_SECONDS, including everything that it
        waits for, or if the load waits too long for one of the `concurrent_bypasses`.
        """
        if not skip_memory and (entry := self.get_from_memory(key)) is not None:
            return Answer(entry, Source.MEMORY)
        budget, miss = Budget(self._config), None
        if self._load_to_join(key) is None:
            found = await self._look_up(key, budget)
            if isinstance(found, Entry):
                return Answer(found, Source.VALKEY)
            miss = found
        task = self._load_to_join(key) or self._start_load(key, load, miss, budget)
        # A caller that is cancelled must not cancel the load of the others.
        return await budget.until_deadline(asyncio.shield(task))

    def _may_look_up(self) -> bool:
        return self._trust.holds and self._store.breaker.allows()

    async def _look_up(self, key: str, budget: Budget) -> Entry | Miss | None:
        """Look up at Valkey, and keep a hit in memory. None if Valkey is not trusted or fails."""
        if not self._may_look_up():
            return None
        began = self._memory.begin_read()
        try:
            found = await budget.cache_step(self._validate_or_look_up(key))
        except CACHE_ERRORS:
            return None
        if isinstance(found, Entry):
            self._memory.put(found, began)
        return found

    async def _validate_or_look_up(self, key: str) -> Entry | Miss:
        copy = self._memory.get_copy(key)
        if copy is not None and await self._store.is_valid(copy):
            return copy
        self._memory.discard(key)
        return await self._store.look_up(key)

    def _load_to_join(self, key: str) -> asyncio.Task[Answer] | None:
        """Return the load of this key that has not begun yet, if there is one."""
        return self._waiting.get(key)

    def _start_load(
        self, key: str, load: Load, miss: Miss | None, budget: Budget
    ) -> asyncio.Task[Answer]:
        # The load is shared, so it must not inherit the context of the first caller's request.
        task = detached(self._run_load(key, load, miss, budget))
        task.add_done_callback(partial(self._forget_load, key))
        self._waiting[key] = task
        return task

    async def _run_load(self, key: str, load: Load, miss: Miss | None, budget: Budget) -> Answer:
        previous = self._running.get(key)
        if previous is not None:
            await asyncio.wait({previous})
        self._running[key] = self._waiting.pop(key)
        if previous is None:
            return await self._load_or_wait(key, load, miss, budget)
        # The previous load may have stored an entry. The budget starts anew, because the last
        # caller that joined this load may have nearly all of its time left.
        budget = Budget(self._config)
        return await self._load_or_wait(key, load, await self._look_up(key, budget), budget)

    def _forget_load(self, key: str, task: asyncio.Task[Answer]) -> None:
        """Remove a load that has ended, even if it was cancelled before it began."""
        for loads in (self._waiting, self._running):
            if loads.get(key) is task:
                del loads[key]
        if not task.cancelled():
            task.exception()  # mark it as retrieved, or asyncio logs it if no caller is left

    async def _load_or_wait(
        self, key: str, load: Load, found: Entry | Miss | None, budget: Budget
    ) -> Answer:
        """Load under a lease, or wait for the entry of another reader that holds the lease.

        A slow cache is not asked for a lease: an unused lease could not be released in time.
        """
        token = random_token()
        force_after = time.monotonic() + MAX_LEASE_WAIT_SECONDS
        while isinstance(found, Miss) and not (budget.is_cache_slow or self._store.breaker.is_open):
            began = self._memory.begin_read()
            force = time.monotonic() > force_after
            try:
                lease = await budget.cache_step(
                    self._store.lease(key, token, found.invalid_fill_id, force=force)
                )
            except CACHE_ERRORS:
                break
            if lease is not None:
                return await self._load_and_fill(key, load, lease, began, budget)
            await asyncio.sleep(random.uniform(MIN_RETRY_SECONDS, MAX_RETRY_SECONDS))  # noqa: S311
            found = await self._look_up(key, budget)
        if isinstance(found, Entry):
            return Answer(found, Source.VALKEY)
        return await self._load_bypassing_cache(load, budget)

    async def _load_and_fill(
        self, key: str, load: Load, lease: Lease, began: int, budget: Budget
    ) -> Answer:
        try:
            entry = await budget.until_deadline(load())
        except BaseException:
            await asyncio.shield(self._release(key, lease, budget))
            raise
        if await self._fill(entry, lease, budget):
            self._memory.put(entry, began)
        else:
            FILLS_REFUSED.inc()
            await self._release(key, lease, budget)
        return Answer(entry, Source.LOAD)

    async def _fill(self, entry: Entry, lease: Lease, budget: Budget) -> bool:
        try:
            return self._may_fill() and await budget.cache_step(self._store.fill(entry, lease))
        except CACHE_ERRORS:
            return False

    def _may_fill(self) -> bool:
        return self._trust.holds

    async def _release(self, key: str, lease: Lease, budget: Budget) -> None:
        with suppress(*CACHE_ERRORS):  # an unreleased lease expires
            await budget.cache_step(self._store.release(key, lease))

    async def _load_bypassing_cache(self, load: Load, budget: Budget) -> Answer:
        """Load without the cache. The number of such loads is limited, to protect the database."""
        try:
            async with asyncio.timeout(BYPASS_WAIT_SECONDS):
                await self._bypass.acquire()
        except TimeoutError:
            raise CacheBusy("The cache is unavailable, and the database is busy.") from None
        try:
            return Answer(await budget.until_deadline(load()), Source.BYPASS)
        finally:
            self._bypass.release()
