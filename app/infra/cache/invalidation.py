"""Takes what was changed out of the cache: after the commit, before the response, without fail.

The tags are written into the transaction itself. So whatever happens after the commit, a crash or a
Valkey that is away, the relay of every process (`relay.py`) finds them and repeats the invalidation
until it is done; to repeat one is harmless.
"""

from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncSession

from app.infra.cache.memory import Memory
from app.infra.cache.outbox import insert_change
from app.infra.cache.store import CACHE_ERRORS, Store
from app.infra.cache.tags import invalidated
from app.infra.cache.trust import Trust
from app.infra.metrics import CACHE_INVALIDATIONS

ROW = "cache_outbox_id"
TAGS_AT_ONCE = 500


class Invalidation:
    """The hook of every transaction. Nothing is asked of the breaker: Valkey may just be back."""

    def __init__(self, store: Store, memory: Memory, trust: Trust, namespace: str) -> None:
        self._store = store
        self._memory = memory
        self._trust = trust
        self._namespace = namespace
        self.done: list[int] = []

    async def before_commit(self, session: AsyncSession) -> None:
        """Write the tags into the transaction."""
        if tags := invalidated(session):
            session.info[ROW] = await insert_change(session, self._namespace, tags)

    async def after_commit(self, session: AsyncSession) -> None:
        """Invalidate, here and everywhere. A failure is left to the relays."""
        if tags := invalidated(session):
            try:
                await self.invalidate(tags)
                CACHE_INVALIDATIONS.labels("done").inc()
                self.done.append(session.info[ROW])
            except CACHE_ERRORS as error:
                self._trust.note_failure(error)
                CACHE_INVALIDATIONS.labels("left_to_relay").inc()
            finally:
                self._memory.drop(tags)

    async def invalidate(self, tags: Sequence[str]) -> None:
        """Make every entry that shows one of `tags` invalid."""
        for at in range(0, len(tags), TAGS_AT_ONCE):
            await self._store.invalidate(tags[at : at + TAGS_AT_ONCE])
