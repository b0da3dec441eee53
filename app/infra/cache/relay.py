"""Looks at the outbox: does what writers have left behind, and tells whether to trust the cache."""

import asyncio
import logging
import random
import time
from collections.abc import Sequence
from contextlib import suppress

from redis.exceptions import ResponseError
from sqlalchemy.exc import SQLAlchemyError

from app.errors import Unavailable
from app.infra.background import detached
from app.infra.cache.invalidation import TAGS_AT_ONCE, Invalidation
from app.infra.cache.outbox import FUTURE, Change, Look, Outbox
from app.infra.cache.store import CACHE_ERRORS, Store
from app.infra.cache.trust import REFUSED, Trust
from app.infra.database.failures import expected_failure
from app.infra.metrics import CACHE_RELAYED
from app.sections import CacheSettings

logger = logging.getLogger(__name__)

LOOK_SECONDS = 0.5  # at most, between the beginnings of two looks
SILENT_SECONDS = 0.4  # with it, below the lease: it is renewed while a look waits for the database
BACKLOG_PAUSE_SECONDS = 0.05
GRACE_SECONDS = 0.1
SINGLY_SECONDS = 0.5
EXPIRED_MARGIN_SECONDS = 60
EXPIRY_SECONDS = 5
FIRST_LOOK_SECONDS = 1.0
DATABASE_ERRORS = (Unavailable, SQLAlchemyError)


class Relay:
    """One a process. Several may relay the same row: to invalidate twice is harmless."""

    def __init__(
        self,
        outbox: Outbox,
        store: Store,
        invalidation: Invalidation,
        trust: Trust,
        settings: CacheSettings,
    ) -> None:
        self._outbox = outbox
        self._store = store
        self._invalidation = invalidation
        self._trust = trust
        self._pause_seconds = min(settings.relay_seconds, LOOK_SECONDS)
        # The writer has had its time by then, and its process the time to delete the row.
        self._ripe_seconds = self._pause_seconds + GRACE_SECONDS
        longest_life = max(settings.ttl_seconds, settings.missing_ttl_seconds)
        self._expired_seconds = longest_life + EXPIRED_MARGIN_SECONDS
        self._expire_at = 0.0

    async def first_turn(self) -> None:
        """Look before the first request, so that it finds the cache trusted. Never fails."""
        try:
            async with asyncio.timeout(FIRST_LOOK_SECONDS):
                await self.turn()
        except TimeoutError:
            pass  # the database is away; `run` looks again
        except Exception:
            logger.exception("The first look at the outbox failed")

    async def run(self) -> None:
        """Take turns until cancelled."""
        while True:
            began = time.monotonic()
            is_behind = await self.turn()
            pause = random.uniform(0.5, 1) * self._pause_seconds  # noqa: S311 - jitter
            if is_behind:
                pause = min(pause, BACKLOG_PAUSE_SECONDS)
            await asyncio.sleep(max(pause - (time.monotonic() - began), pause / 10))

    async def turn(self) -> bool:
        """Look, relay, judge. Return whether there is more to relay than one turn takes."""
        look, error = await asyncio.gather(self._look(), self._probe())
        refusal = error if isinstance(error, ResponseError) else None
        if look is None:
            if refusal is not None:
                self._trust.withdraw(REFUSED, refusal)
            return False
        ripe = [change for change in look.changes if change.age_seconds > self._ripe_seconds]
        relayed = set() if error is not None else await self._relay(_batch(ripe))
        waiting = [change.age_seconds for change in look.changes if change.id not in relayed]
        if not look.is_whole:  # the rows that were not read are younger than the last of these
            waiting.append(look.changes[-1].age_seconds)
        self._trust.looked(look.began, max(waiting, default=0.0), refusal)
        await self._delete_expired(waiting)
        return bool(relayed) and (len(relayed) < len(ripe) or not look.is_whole)

    async def _look(self) -> Look | None:
        """Return what the database knows, or None if it does not answer: the verdict holds then."""
        began = time.monotonic()
        asked = detached(self._ask_database())
        try:
            while not (await asyncio.wait({asked}, timeout=SILENT_SECONDS))[0]:
                # It connects, which may take longer than a look.
                self._trust.database_is_silent(began)
            return await asked
        except DATABASE_ERRORS as error:
            if _is_silence(error):
                self._trust.database_is_silent(began)
            else:
                self._trust.withdraw("the table cache_outbox cannot be read", error)
            return None
        finally:
            asked.cancel()
            await asyncio.wait({asked})

    async def _ask_database(self) -> Look:
        done, self._invalidation.done = self._invalidation.done, []
        if done:
            await self._outbox.delete(done)
        return await self._outbox.look()

    async def _probe(self) -> Exception | None:
        """Try whether Valkey accepts a write from this process, and return its error if not."""
        try:
            await self._store.probe()
        except CACHE_ERRORS as error:
            return error
        return None

    async def _relay(self, changes: Sequence[Change]) -> set[int]:
        """Invalidate the tags of these changes. Return the ids of the invalidated changes."""
        try:
            tags = dict.fromkeys(tag for change in changes for tag in change.tags)
            await self._invalidation.invalidate([*tags])
            done = {change.id for change in changes}
        except Exception as error:  # of whatever kind: it may be the fault of one row
            self._trust.note_failure(error)
            done = await self._relay_singly(changes)
        if done:
            CACHE_RELAYED.inc(len(done))
            with suppress(*DATABASE_ERRORS):  # then they are relayed once more
                await self._outbox.delete([*done])
        return done

    async def _relay_singly(self, changes: Sequence[Change]) -> set[int]:
        """Do the same row by row, so that a bad one does not hold up the others."""
        done = set()
        with suppress(TimeoutError):
            async with asyncio.timeout(SINGLY_SECONDS):
                for change in changes:
                    try:
                        await self._invalidation.invalidate(change.tags)
                        done.add(change.id)
                    except Exception as error:
                        self._trust.note_failure(error)
        return done

    async def _delete_expired(self, waiting: Sequence[float]) -> None:
        """Give up rows that are older than any entry which they could invalidate."""
        now = time.monotonic()
        if now < self._expire_at or not any(
            self._expired_seconds < age < FUTURE for age in waiting
        ):
            return
        self._expire_at = now + EXPIRY_SECONDS
        with suppress(*DATABASE_ERRORS):
            if deleted := await self._outbox.delete_expired(self._expired_seconds):
                logger.error(
                    "Deleted %d changes from cache_outbox that could not be invalidated for %g s. "
                    "No cache entry is that old. The cause: %s",
                    deleted,
                    self._expired_seconds,
                    self._trust,
                )


def _batch(changes: Sequence[Change]) -> list[Change]:
    """Choose as many changes as one command takes, at random.

    So a bad row is not always before the same others, and processes seldom choose the same.
    """
    batch: list[Change] = []
    room = TAGS_AT_ONCE
    for change in random.sample(changes, len(changes)):
        room -= len(change.tags)
        if batch and room < 0:
            break
        batch.append(change)
    return batch


def _is_silence(error: Exception) -> bool:
    """Whether the database could not be asked, as opposed to having refused."""
    if isinstance(error, SQLAlchemyError):
        return isinstance(expected_failure(error), Unavailable)
    return True
