"""Invalidates what a transaction changed: after the commit, and before the response starts.

A tag is a name such as `post:5`. The user of this package chooses the names. Two functions record
tags on the session: `shows` those of an answer, and `invalidate` those of a change.

The tags are also written to the outbox, in the transaction itself. If the process crashes after the
commit, or Valkey is unreachable, the relays (relay.py) find the tags there and repeat the
invalidation until it succeeds. Repeating an invalidation is harmless.
"""

from collections.abc import Iterator, Sequence

from sqlalchemy.ext.asyncio import AsyncSession

from coherent_cache.cache_metrics import INVALIDATIONS
from coherent_cache.memory import Memory
from coherent_cache.outbox import INSERT, FetchIn, fetch_in
from coherent_cache.store import CACHE_ERRORS, Store
from coherent_cache.together import TAGS_PER_COMMAND
from coherent_cache.trust import Trust

# Keys of `session.info`.
SHOWN, INVALIDATED, ROW = "cache.shown", "cache.invalidated", "cache.outbox_id"


def shows(session: AsyncSession, *tags: str) -> None:
    """Record that the answer shows the things that these tags name, or shows their absence.

    Call this before the query wherever the tags are known by then. "Not found" is an answer too,
    and must be invalidated when the thing is created. Raises ValueError for a tag that is empty or
    contains a line break.
    """
    _check_tags(tags)
    session.info.setdefault(SHOWN, set()).update(tags)


def collect_shown_tags(session: AsyncSession, tags: set[str]) -> None:
    """Add the tags that are passed to `shows` for this session to `tags`, from now on."""
    session.info[SHOWN] = tags


def invalidate(session: AsyncSession, *tags: str) -> None:
    """Invalidate every answer that shows one of these tags, after the commit of this transaction.

    The invalidation is complete before the response starts. A rollback invalidates nothing. A crash
    after the commit delays the invalidation until the next poll of a relay, but never loses it.
    Raises ValueError for a tag that is empty or contains a line break.
    """
    _check_tags(tags)
    session.info.setdefault(INVALIDATED, set()).update(tags)


def _check_tags(tags: tuple[str, ...]) -> None:
    if not all(tags) or "\n" in "".join(tags):
        raise ValueError("A tag must not be empty, and must not contain a line break.")


def tags_to_invalidate(session: AsyncSession) -> list[str]:
    """Return the tags that were passed to `invalidate`, sorted."""
    return sorted(session.info.get(INVALIDATED, ()))


class Invalidation:
    """The two hooks of every transaction. They ignore the breaker: Valkey may just have recovered.

    `completed_ids` collects the outbox rows that the relay of this process can delete.
    """

    def __init__(
        self,
        store: Store,
        memory: Memory,
        trust: Trust,
        namespace: str,
        fetch_in: FetchIn = fetch_in,
    ) -> None:
        self._store = store
        self._memory = memory
        self._trust = trust
        self._namespace = namespace
        self._fetch_in = fetch_in
        self.completed_ids: list[int] = []

    async def before_commit(self, session: AsyncSession) -> None:
        """Write the tags to the outbox, in the transaction."""
        if tags := tags_to_invalidate(session):
            [[row_id]] = await self._fetch_in(session, INSERT, tags, self._namespace)
            session.info[ROW] = row_id

    async def after_commit(self, session: AsyncSession) -> None:
        """Invalidate the tags at Valkey and in memory. After a failure, the relays repeat it."""
        if tags := tags_to_invalidate(session):
            try:
                for part in _parts(tags):
                    await self._store.invalidate_together(part)
                INVALIDATIONS.labels("done").inc()
                self.completed_ids.append(session.info[ROW])
            except CACHE_ERRORS as error:
                self._trust.note_failure(error)
                INVALIDATIONS.labels("left_to_relay").inc()
            finally:
                self._memory.invalidate(tags)

    async def invalidate(self, tags: Sequence[str]) -> None:
        """Invalidate every entry at Valkey that has one of `tags`, in commands of their own.

        The relay has them from the table. A bad row must not fail the commands of transactions.
        """
        for part in _parts(tags):
            await self._store.invalidate(part)


def _parts(tags: Sequence[str]) -> Iterator[Sequence[str]]:
    for at in range(0, len(tags), TAGS_PER_COMMAND):
        yield tags[at : at + TAGS_PER_COMMAND]
