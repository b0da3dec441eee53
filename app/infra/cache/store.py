"""The shared tier: entries in Valkey, with the protocol's steps as methods.

Correct whoever else uses the same Valkey with it: other workers, other replicas, and processes that
stop between any two steps. Errors of the connection are passed on; the reader decides.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from cachetools import LRUCache
from redis.exceptions import RedisError, ResponseError

from app.infra.background import detached
from app.infra.cache import scripts
from app.infra.cache.breaker import NEVER, Breaker
from app.infra.cache.client import Valkey
from app.infra.cache.entry import FILL_ID, HEAD, SCHEMA, TOKEN_BYTES, Entry, read_stored

CACHE_ERRORS = (RedisError, OSError, TimeoutError)

LEASE_MILLISECONDS = 3_000
TOKEN_MARGIN_SECONDS = 60  # a tag's token outlives every entry that has it
MOST_LOGGED_TAGS = 10_000
REMEMBERED_TAGS = 50_000  # about 4 MB: of some entries, what to ask for in the same round trip
FLUSHED_AT_ONCE = 1_000
EVERYTHING = ""  # as a message: no tag is called so

Names = tuple[str, ...]  # of keys, as Valkey knows them
Values = list[bytes | None]
Asked = tuple[Names, asyncio.Future[Values]]


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
    """One namespace of Valkey. One MGET is under way at a time: what is asked meanwhile is next."""

    def __init__(
        self, valkey: Valkey, namespace: str, release: str, slow_seconds: float = NEVER
    ) -> None:
        self._code = release
        self.prefix = f"{{{namespace}}}"  # a hash tag: all keys are in one slot of a cluster
        self.channel = f"{self.prefix}invalidations"
        self.breaker = Breaker(slow_seconds)
        self._valkey = valkey
        self._log = f"{self.prefix}log"
        self._lease = valkey.register_script(scripts.LEASE)
        self._fill = valkey.register_script(scripts.FILL)
        self._release = valkey.register_script(scripts.RELEASE)
        self._invalidate = valkey.register_script(scripts.INVALIDATE)
        self._probe = valkey.register_script(scripts.PROBE)
        self._tags: LRUCache[str, Names] = LRUCache(
            REMEMBERED_TAGS, getsizeof=lambda names: len(names) + 1
        )
        self._asked: list[Asked] = []
        self._asking: asyncio.Task[None] | None = None

    async def look_up(self, key: str) -> Entry | Miss:
        """Return the entry if it is valid: one round trip if its tags are remembered, else two."""
        tags = self._tags.get(key, ())
        raw, *tokens = await self._mget((self._entry(key), *tags))
        if raw is None or _is_lease(raw):
            return Miss()
        entry = read_stored(raw)
        if entry is None or entry.key != key:
            return Miss(raw[FILL_ID])
        if (current := self._names(entry)) != tags:
            self._tags[key] = current
            tokens = await self._mget(current)
        return entry if _joined(tokens) == entry.tokens else Miss(raw[FILL_ID])

    async def is_valid(self, copy: Entry) -> bool:
        """Whether what was found or stored some time ago still is what Valkey would answer."""
        if not copy.is_alive:
            return False
        return _joined(await self._mget(self._names(copy))) == copy.tokens

    async def lease(
        self, key: str, token: bytes, judged: bytes, *, anyway: bool = False
    ) -> Lease | Wait | Again:
        """Ask for the right to load. One's own token is granted again, so that it may be repeated.

        With `anyway`, the load may begin though somebody else has the lease.
        """
        answer, *place = await self._ask(
            self._lease(
                keys=[self._entry(key), self._log],
                args=[token, judged, _random(), LEASE_MILLISECONDS, "anyway" if anyway else ""],
            )
        )
        if answer == b"LEASED":
            return Lease(token, place[0], int(place[1]))
        return Wait() if answer == b"WAIT" else Again()

    async def fill(self, entry: Entry, lease: Lease) -> bool:
        """Store what was loaded. False when something in it has changed since the lease."""
        names = self._names(entry)
        ttl = int(entry.ttl_seconds * 1000)
        token_ttl = ttl + TOKEN_MARGIN_SECONDS * 1000
        head = HEAD.pack(SCHEMA, _random(), len(names))
        value: list[Any] = [lease.epoch, lease.n, head, entry.envelope(head), ttl, token_ttl]
        tokens = [_random() for _ in names]
        stored: bytes | None = await self._ask(
            self._fill(
                keys=[self._entry(entry.key), self._log, *names], args=[*value, *tokens, *names]
            )
        )
        if stored is None:
            return False
        entry.tokens = stored
        self._tags[entry.key] = names
        return True

    async def release(self, key: str, lease: Lease) -> None:
        """Give up a lease that was not used."""
        await self._ask(self._release(keys=[self._entry(key)], args=[lease.token]))

    async def invalidate(self, tags: Sequence[str]) -> None:
        """Make every entry with one of `tags` invalid, and tell all workers. May be repeated."""
        await self._ask(self._invalidation(tags))

    async def probe(self) -> None:
        """Write something and delete it. Raises what an invalidation would raise at this moment."""
        await self._ask(self._probe(keys=[f"{self.prefix}probe"]))

    async def flush(self) -> int:
        """Forget everything, here and in every worker; return how many keys that were.

        For changes that nobody invalidates: by hand, by a restore, by a migration. Loads that are
        under way are refused, because the log goes first.
        """
        found = await self._valkey.delete(self._log)
        pattern = f"{self.prefix}*"
        keys = [key async for key in self._valkey.scan_iter(pattern, count=FLUSHED_AT_ONCE)]
        for at in range(0, len(keys), FLUSHED_AT_ONCE):
            found += await self._valkey.unlink(*keys[at : at + FLUSHED_AT_ONCE])
        await self._valkey.publish(self.channel, EVERYTHING)
        return int(found)

    async def _mget(self, names: Names) -> Values:
        if not names:
            return []
        answer: asyncio.Future[Values] = asyncio.get_running_loop().create_future()
        self._asked.append((names, answer))
        if self._asking is None:
            self._asking = detached(self._answer_all())
        return await answer

    async def _answer_all(self) -> None:
        """Answer what was asked, with as few commands as there are round trips."""
        try:
            while self._asked:
                asked, self._asked = self._asked, []
                await self._answer(asked)
        finally:
            self._asking = None

    async def _answer(self, asked: list[Asked]) -> None:
        # Those who ask for the same entry have the same tuple, which is cheaper to tell by its id.
        wanted = {id(names): names for names, _ in asked}
        keys = list(dict.fromkeys(chain.from_iterable(wanted.values())))
        try:
            with self.breaker.timing_look_up():
                values = await self._ask(self._valkey.mget(keys))
        except Exception as error:
            for _, answer in asked:
                if not answer.done():
                    answer.set_exception(error)
            return
        found = dict(zip(keys, values, strict=True))
        answers = {place: [found[name] for name in names] for place, names in wanted.items()}
        for names, answer in asked:
            if not answer.done():
                answer.set_result(answers[id(names)])

    async def _ask(self, command: Awaitable[Any]) -> Any:
        """Wait for one command, and tell the breaker. A refusal is an answer as well."""
        try:
            answer = await command
        except ResponseError:
            self.breaker.succeeded()
            raise
        except CACHE_ERRORS as error:
            self.breaker.failed(error)
            raise
        self.breaker.succeeded()
        return answer

    def _invalidation(self, tags: Sequence[str]) -> Awaitable[Any]:
        names = [self._tag(tag) for tag in tags]
        return self._invalidate(
            keys=[self._log, *names],
            args=[_random(), MOST_LOGGED_TAGS, self.channel, "\n".join(tags), *names],
        )

    def _entry(self, key: str) -> str:
        return f"{self.prefix}e:{self._code}:{key}"

    def _names(self, entry: Entry) -> Names:
        """Return what Valkey calls the tags of an entry, put together once."""
        if not entry.names:
            entry.names = tuple([self._tag(tag) for tag in entry.tags])
        return entry.names

    def _tag(self, tag: str) -> str:
        return f"{self.prefix}t:{tag}"


def new_lease_token() -> bytes:
    """Return what names one reader's lease."""
    return _random()


def _is_lease(raw: bytes) -> bool:
    """Whether a stored value is somebody's lease. A damaged one is not, and gives way."""
    return raw[:1] == b"L" and len(raw) == 1 + TOKEN_BYTES


def _joined(tokens: Values) -> bytes:
    return b"".join([token or b"" for token in tokens])


def _random() -> bytes:
    return secrets.token_bytes(TOKEN_BYTES)
