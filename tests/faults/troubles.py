"""Troubles that a case causes inside of the workers, with and without the safeguards.

The environment variable FAULTS_TROUBLE names one, beside the control.
"""

import asyncio
import os
import random
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import Conflict
from app.infra.database.sessions import Database
from app.infra.web.response_cache import ResponseCacheMiddleware
from coherent_cache.channel import Channel
from coherent_cache.invalidation import Invalidation, tags_to_invalidate
from coherent_cache.relay import Relay

# Names the trouble of a case, beside the control.
TROUBLE = "FAULTS_TROUBLE"
CLOSED = "FAULTS_CLOSED"  # a folder
BROKEN = "FAULTS_BROKEN"  # a file: while it exists, no worker can boot
SLOW_SHARE, SLOWEST_SECONDS = 0.3, 0.03
COLD_SECONDS = 0.2
FAILURE_SHARE = 0.2

LOADS: Counter[str] = Counter()

# Takes the current function, with or without the safeguard, and returns its replacement.
Wrap = Callable[[Any], Any]


def count_loads(load: Any) -> Any:
    """Count the requests that reach a route. This is active in most cases."""

    async def load_and_count(*arguments: Any) -> Any:
        path = next(one["path"] for one in arguments if isinstance(one, dict))
        LOADS[path] += 1
        return await load(*arguments)

    return load_and_count


def tarry(load: Any) -> Any:
    """Wait between a load and its fill, so that a change can happen in between."""

    async def load_and_tarry(*arguments: Any) -> Any:
        entry = await load(*arguments)
        if random.random() < SLOW_SHARE:
            await asyncio.sleep(random.uniform(0, SLOWEST_SECONDS))
        return entry

    return load_and_tarry


def take_long(load: Any) -> Any:
    """Make every load slow."""

    async def load_slowly(*arguments: Any) -> Any:
        entry = await load(*arguments)
        await asyncio.sleep(COLD_SECONDS)
        return entry

    return load_slowly


def die_after_commit(after_commit: Any) -> Any:
    """Kill the worker between the commit of an edit, which has one tag, and its invalidation."""

    async def die(self: Invalidation, session: AsyncSession) -> None:
        if len(tags_to_invalidate(session)) == 1 and tags_to_invalidate(session)[0].startswith(
            "post:"
        ):
            os.kill(os.getpid(), signal.SIGKILL)
        await after_commit(self, session)

    return die


def fail_after_noting(before_commit: Any) -> Any:
    """Fail after the tags are stored and the change is flushed: all is rolled back."""

    async def fail(self: Invalidation, session: AsyncSession) -> None:
        await before_commit(self, session)
        of_post = any(tag.startswith("post:") for tag in tags_to_invalidate(session))
        if of_post and random.random() < FAILURE_SHARE:
            raise Conflict("This was undone on purpose.")

    return fail


def note_closing(close: Any) -> Any:
    """Record which workers got as far as closing their pools."""

    async def close_and_note(self: Database) -> None:
        await close(self)
        (Path(os.environ[CLOSED]) / str(os.getpid())).touch()

    return close_and_note


def fail_at_first(work: Any) -> Any:
    """Raise an unexpected error in a background task, once in each process."""
    failed: list[bool] = []

    async def fail_or_work(self: object) -> None:
        if not failed:
            failed.append(True)
            raise RuntimeError("This was raised on purpose.")
        await work(self)

    return fail_or_work


_COUNTED = (ResponseCacheMiddleware, "_load", count_loads)
_SLOW_FILLS = (ResponseCacheMiddleware, "_load", tarry)
TROUBLES: dict[str, tuple[tuple[type, str, Wrap], ...]] = {
    "": (_COUNTED,),
    "slow_fills": (_COUNTED, _SLOW_FILLS),
    "slow_loads": (_COUNTED, (ResponseCacheMiddleware, "_load", take_long)),
    "crashes": ((Invalidation, "after_commit", die_after_commit),),
    "notes": ((Database, "close", note_closing),),
    "tasks_fail": (
        (Channel, "_listen", fail_at_first),
        (Relay, "run", fail_at_first),
    ),
    "failures": (_SLOW_FILLS, (Invalidation, "before_commit", fail_after_noting)),
}
