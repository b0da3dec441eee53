"""Polls the outbox: repeats missing invalidations, and reports to `Trust` how far they are behind.

A change is due when its writer should have invalidated it by now. Several relays may relay the same
row, because invalidating twice is harmless.
"""

import asyncio
import logging
import random
import time
from collections.abc import Sequence
from contextlib import suppress

from redis.exceptions import ResponseError

from coherent_cache.cache_metrics import RELAYED
from coherent_cache.config import CacheConfig
from coherent_cache.invalidation import Invalidation
from coherent_cache.outbox import INFINITE_AGE, Change, Outbox, Poll
from coherent_cache.store import CACHE_ERRORS, Store
from coherent_cache.together import TAGS_PER_COMMAND
from coherent_cache.trust import REFUSED, Trust

logger = logging.getLogger(__name__)

MAX_POLL_INTERVAL_SECONDS = 0.5  # between the beginnings of two polls
# A poll that takes longer renews the lease of `Trust` while it waits for the database. The sum with
# MAX_POLL_INTERVAL_SECONDS must stay below that lease.
SLOW_POLL_SECONDS = 0.4
BACKLOG_PAUSE_SECONDS = 0.05
GRACE_SECONDS = 0.1
ONE_BY_ONE_SECONDS = 0.5
EXPIRY_MARGIN_SECONDS = 60
EXPIRY_INTERVAL_SECONDS = 5  # so that a long outage of Valkey does not flood the log
# Classes: connection, rollback after a conflict, resources, object state, operator, system error.
# The last one is the error of a standby, which the engine replaces with a new connection.
UNAVAILABLE_SQLSTATES = ("08", "40", "53", "55", "57", "58", "25006")


class Relay:
    def __init__(
        self,
        outbox: Outbox,
        store: Store,
        invalidation: Invalidation,
        trust: Trust,
        config: CacheConfig,
        database_errors: tuple[type[Exception], ...],
    ) -> None:
        """`database_errors` are what the outbox raises if the database fails, besides OSError."""
        self._database_errors: tuple[type[Exception], ...] = (OSError, *database_errors)
        self._outbox = outbox
        self._store = store
        self._invalidation = invalidation
        self._trust = trust
        self._pause_seconds = min(config.relay_seconds, MAX_POLL_INTERVAL_SECONDS)
        # By then the writer has had time to invalidate, and its process to delete the row.
        self._due_seconds = self._pause_seconds + GRACE_SECONDS
        self._expiry_seconds = config.ttl_seconds + EXPIRY_MARGIN_SECONDS
        self._next_expiry_at = 0.0

    async def run(self) -> None:
        while True:
            began = time.monotonic()
            is_behind = await self.run_once()
            pause = random.uniform(0.8, 1) * self._pause_seconds  # noqa: S311 - jitter
            if is_behind:
                pause = min(pause, BACKLOG_PAUSE_SECONDS)
            await asyncio.sleep(max(pause - (time.monotonic() - began), pause / 10))

    async def run_once(self) -> bool:
        """Poll, relay a batch, and update the trust. Return whether more changes are due."""
        poll, error = await asyncio.gather(self._poll(), self._probe())
        refusal = error if isinstance(error, ResponseError) else None
        if poll is None:
            if refusal is not None:
                self._trust.withdraw(REFUSED, refusal)
            return False
        due = [change for change in poll.changes if change.age_seconds > self._due_seconds]
        relayed = set() if error is not None else await self._relay(_batch(due))
        waiting = [change.age_seconds for change in poll.changes if change.id not in relayed]
        if not poll.is_complete:  # the rows not read are younger than the last one
            waiting.append(poll.changes[-1].age_seconds)
        self._trust.polled(poll.began, max(waiting, default=0.0), refusal)
        await self._delete_expired(waiting)
        return bool(relayed) and (len(relayed) < len(due) or not poll.is_complete)

    async def _poll(self) -> Poll | None:
        """Poll the outbox. None if that fails; if the database does not answer, trust is kept."""
        began = time.monotonic()
        self._renew_trust_later(began)
        try:
            return await self._delete_completed_and_poll()
        except self._database_errors as error:
            if _is_unavailable(error):
                self._trust.database_unavailable(began)
            else:
                self._trust.withdraw("the table cache_outbox cannot be read", error)
            return None
        finally:
            self._renewal.cancel()

    def _renew_trust_later(self, began: float) -> None:
        """Renew the lease while the poll lasts: to connect can take longer than a poll."""
        loop = asyncio.get_running_loop()
        self._renewal = loop.call_later(SLOW_POLL_SECONDS, self._renew_trust, began)

    def _renew_trust(self, began: float) -> None:
        self._trust.database_unavailable(began)
        self._renew_trust_later(began)

    async def _delete_completed_and_poll(self) -> Poll:
        done, self._invalidation.completed_ids = self._invalidation.completed_ids, []
        if done:
            await self._outbox.delete(done)
        return await self._outbox.poll()

    async def _probe(self) -> Exception | None:
        """Test whether Valkey accepts writes from this process. Return the error if not."""
        try:
            await self._store.probe()
        except CACHE_ERRORS as error:
            return error
        return None

    async def _relay(self, changes: Sequence[Change]) -> set[int]:
        """Invalidate the tags of these changes. Return the ids of the invalidated changes."""
        done = set()
        if await self._invalidate(changes):
            done = {change.id for change in changes}
        else:  # a single bad row may be the cause, and must not block the others
            with suppress(TimeoutError):
                async with asyncio.timeout(ONE_BY_ONE_SECONDS):
                    for change in changes:
                        if await self._invalidate([change]):
                            done.add(change.id)
        if done:
            RELAYED.inc(len(done))
            with suppress(*self._database_errors):  # the rows are then relayed once more
                await self._outbox.delete([*done])
        return done

    async def _invalidate(self, changes: Sequence[Change]) -> bool:
        try:
            tags = dict.fromkeys(tag for change in changes for tag in change.tags)
            await self._invalidation.invalidate([*tags])
        except Exception as error:
            self._trust.note_failure(error)
            return False
        return True

    async def _delete_expired(self, waiting: Sequence[float]) -> None:
        """Delete rows that are older than any entry that they could invalidate."""
        now, limit = time.monotonic(), self._expiry_seconds
        if now < self._next_expiry_at or not any(limit < age < INFINITE_AGE for age in waiting):
            return
        self._next_expiry_at = now + EXPIRY_INTERVAL_SECONDS
        with suppress(*self._database_errors):
            if deleted := await self._outbox.delete_expired(self._expiry_seconds):
                logger.error(
                    "Deleted %d changes from cache_outbox that could not be invalidated for %g s. "
                    "No cache entry is that old. Cause: %s",
                    deleted,
                    self._expiry_seconds,
                    self._trust,
                )


def _batch(changes: Sequence[Change]) -> list[Change]:
    """Choose changes at random, with as many tags as fit into one command.

    Because the choice is random, a bad row does not always block the same rows, and two processes
    seldom choose the same rows.
    """
    batch: list[Change] = []
    room = TAGS_PER_COMMAND
    for change in random.sample(changes, len(changes)):
        room -= len(change.tags)
        if batch and room < 0:
            break
        batch.append(change)
    return batch


def _is_unavailable(error: Exception) -> bool:
    """Whether the database could not answer, rather than having rejected the statement.

    SQLAlchemy wraps the errors of the driver, and says whether the connection was lost.
    """
    is_lost: bool | None = getattr(error, "connection_invalidated", None)
    sqlstate: str | None = getattr(getattr(error, "orig", error), "sqlstate", None)
    if sqlstate is None:
        return is_lost is not False
    return bool(is_lost) or sqlstate.startswith(UNAVAILABLE_SQLSTATES)
