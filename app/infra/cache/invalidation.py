"""Takes what was changed out of the cache: after the commit, before the response, without fail.

The tags are written into the transaction itself. So whatever happens after the commit, a crash or a
Valkey that is away, a relay in every process finds them and repeats the invalidation until it is
done; to repeat one is harmless.
"""

import asyncio
import random
import time
from collections.abc import Sequence

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import Unavailable
from app.infra.cache.memory import Memory
from app.infra.cache.outbox import delete_changes, has_changes, insert_change, lock_changes
from app.infra.cache.store import CACHE_ERRORS, Store
from app.infra.cache.tags import invalidated
from app.infra.database.session import Database
from app.infra.metrics import CACHE_INVALIDATIONS, CACHE_RELAYED

ROW = "cache_outbox_id"
TAGS_AT_ONCE = 500
ROWS_AT_ONCE = 500
SWEEP_SECONDS = 0.05  # below RELAYED_AGE_SECONDS, so that relays seldom see what is done
RELAYED_AGE_SECONDS = 0.1
AFTER_ERROR_SECONDS = 0.5


class Invalidation:
    """The hook of every transaction. Nothing is asked of the breaker: Valkey may just be back."""

    def __init__(self, store: Store, memory: Memory) -> None:
        self._store = store
        self._memory = memory
        self.done: list[int] = []

    async def before_commit(self, session: AsyncSession) -> None:
        """Write the tags into the transaction."""
        if tags := invalidated(session):
            session.info[ROW] = await insert_change(session, tags)

    async def after_commit(self, session: AsyncSession) -> None:
        """Invalidate, here and everywhere. A failure is left to the relays."""
        if tags := invalidated(session):
            try:
                await self.invalidate(tags)
                CACHE_INVALIDATIONS.labels("done").inc()
                self.done.append(session.info[ROW])
            except CACHE_ERRORS:  # the breaker has said so
                CACHE_INVALIDATIONS.labels("left_to_relay").inc()
            finally:
                self._memory.drop(tags)

    async def invalidate(self, tags: Sequence[str]) -> None:
        """Make every entry that shows one of `tags` invalid."""
        for at in range(0, len(tags), TAGS_AT_ONCE):
            await self._store.invalidate(tags[at : at + TAGS_AT_ONCE])


class Relay:
    """Deletes the rows that are done, and does what others have left behind."""

    def __init__(self, invalidation: Invalidation, database: Database, seconds: float) -> None:
        self._invalidation = invalidation
        self._database = database
        self._seconds = seconds

    async def run(self) -> None:
        """Sweep and relay until cancelled, through every failure of either server."""
        relay_at = 0.0
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            try:
                await self._sweep()
                if time.monotonic() >= relay_at:
                    await self._relay()
                    relay_at = time.monotonic() + random.uniform(0.5, 1) * self._seconds  # noqa: S311
            except (Unavailable, SQLAlchemyError, *CACHE_ERRORS):
                await self._rest()

    async def _rest(self) -> None:
        await asyncio.sleep(random.uniform(1, 2) * AFTER_ERROR_SECONDS)  # noqa: S311 - jitter

    async def _sweep(self) -> None:
        done, self._invalidation.done = self._invalidation.done, []
        if done:
            async with self._database.transaction() as session:
                await delete_changes(session, done)

    async def _is_anything_left(self) -> bool:
        """Ask in one round trip, because there seldom is."""
        async with self._database.read() as session:
            return await has_changes(session, RELAYED_AGE_SECONDS)

    async def _relay(self) -> None:
        while await self._is_anything_left():
            async with self._database.transaction() as session:
                changes = await lock_changes(session, RELAYED_AGE_SECONDS, ROWS_AT_ONCE)
                if not changes:
                    return  # others are at them
                tags = sorted({tag for change in changes for tag in change.tags})
                await self._invalidation.invalidate(tags)
                await delete_changes(session, [change.id for change in changes])
            CACHE_RELAYED.inc(len(changes))
