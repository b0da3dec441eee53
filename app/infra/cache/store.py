"""The shared tier: entries in Valkey, with the protocol's steps as methods.

Correct whoever else uses the same Valkey with it: other workers, other replicas, and processes that
stop between any two steps. Errors of the connection are passed on; the reader decides.
"""

import asyncio
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cachetools import LRUCache
from redis.asyncio import Redis

from app.infra.cache import scripts
from app.infra.cache.entry import HEAD, TOKEN_BYTES, Entry, read_stored

PREFIX = "{c}"  # one hash tag: all keys are in one slot of a cluster
LOG = f"{PREFIX}log"
CHANNEL = f"{PREFIX}invalidations"
LEASE_MILLISECONDS = 3_000
TOKEN_MARGIN_SECONDS = 60  # a tag's token outlives every entry that has it
MOST_LOGGED_TAGS = 10_000
REMEMBERED = 10_000


@dataclass(frozen=True, slots=True)
class Miss:
    """There is no valid entry; `judged` is the fill id of the invalid one, if there is one."""

    judged: bytes = b""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to load, and the place in the log at which the load begins."""

    token: bytes
    epoch: bytes
    n: int


class Wait:
    """Somebody else is loading."""


class Again:
    """The entry has changed since it was looked up."""


class Store:
    """Look-ups of one turn of the event loop travel as one MGET."""

    def __init__(self, valkey: Redis) -> None:
        self._valkey = valkey
        self._lease = valkey.register_script(scripts.LEASE)
        self._fill = valkey.register_script(scripts.FILL)
        self._release = valkey.register_script(scripts.RELEASE)
        self._invalidate = valkey.register_script(scripts.INVALIDATE)
        self._tags: LRUCache[str, tuple[str, ...]] = LRUCache(REMEMBERED)
        self._batch: list[tuple[list[str], asyncio.Future[list[bytes | None]]]] = []
        self._sending: set[asyncio.Task[None]] = set()

    async def look_up(self, key: str) -> Entry | Miss:
        """Return the entry if it is valid: one round trip if its tags are remembered, else two."""
        tags = self._tags.get(key, ())
        raw, *tokens = await self._mget([_entry(key), *map(_tag, tags)])
        if raw is None or raw[:1] != b"V":
            return Miss()
        stored = read_stored(raw, key)
        if stored.entry is None:
            return Miss(stored.fill_id)
        if stored.entry.tags != tags:
            self._tags[key] = stored.entry.tags
            tokens = await self._mget([*map(_tag, stored.entry.tags)])
        return stored.entry if tuple(tokens) == stored.tokens else Miss(stored.fill_id)

    async def lease(
        self, key: str, token: bytes, judged: bytes, *, anyway: bool = False
    ) -> Lease | Wait | Again:
        """Ask for the right to load. One's own token is granted again, so that it may be repeated.

        With `anyway`, the load may begin though somebody else has the lease.
        """
        answer, *place = await self._lease(
            keys=[_entry(key), LOG],
            args=[token, judged, _random(), LEASE_MILLISECONDS, "anyway" if anyway else ""],
        )
        if answer == b"LEASED":
            return Lease(token, place[0], int(place[1]))
        return Wait() if answer == b"WAIT" else Again()

    async def fill(self, entry: Entry, lease: Lease) -> bool:
        """Store what was loaded. False when something in it has changed since the lease."""
        names = [*map(_tag, entry.tags)]
        ttl = int(entry.ttl_seconds * 1000)
        token_ttl = ttl + TOKEN_MARGIN_SECONDS * 1000
        head = HEAD.pack(_random(), len(names))
        value: list[Any] = [lease.epoch, lease.n, head, entry.envelope(), ttl, token_ttl]
        tokens = [_random() for _ in names]
        stored = await self._fill(
            keys=[_entry(entry.key), LOG, *names], args=[*value, *tokens, *names]
        )
        if stored:
            self._tags[entry.key] = entry.tags
        return bool(stored)

    async def release(self, key: str, lease: Lease) -> None:
        """Give up a lease that was not used."""
        await self._release(keys=[_entry(key)], args=[lease.token])

    async def invalidate(self, tags: Sequence[str]) -> None:
        """Make every entry with one of `tags` invalid, and tell all workers. May be repeated."""
        names = [*map(_tag, tags)]
        await self._invalidate(
            keys=[LOG, *names],
            args=[_random(), MOST_LOGGED_TAGS, CHANNEL, "\n".join(tags), *names],
        )

    async def _mget(self, keys: list[str]) -> list[bytes | None]:
        if not keys:
            return []
        loop = asyncio.get_running_loop()
        if not self._batch:
            loop.call_soon(self._send_batch)
        answer: asyncio.Future[list[bytes | None]] = loop.create_future()
        self._batch.append((keys, answer))
        return await answer

    def _send_batch(self) -> None:
        batch, self._batch = self._batch, []
        task = asyncio.create_task(self._send(batch))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _send(
        self, batch: list[tuple[list[str], asyncio.Future[list[bytes | None]]]]
    ) -> None:
        try:
            values: list[Any] = await self._valkey.mget([key for keys, _ in batch for key in keys])
        except Exception as error:
            for _, answer in batch:
                if not answer.done():
                    answer.set_exception(error)
            return
        at = 0
        for keys, answer in batch:
            if not answer.done():
                answer.set_result(values[at : at + len(keys)])
            at += len(keys)


def new_lease_token() -> bytes:
    """Return what names one reader's lease."""
    return _random()


def _random() -> bytes:
    return secrets.token_bytes(TOKEN_BYTES)


def _entry(key: str) -> str:
    return f"{PREFIX}e:{key}"


def _tag(tag: str) -> str:
    return f"{PREFIX}t:{tag}"
