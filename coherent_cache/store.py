"""The Valkey tier: the steps of the cache protocol as methods.

The store is correct whatever else uses the same Valkey: other workers, other instances of the
service, and processes that crash between any two steps. Connection errors are passed on, and the
reader decides what to do about them.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Sequence
from itertools import chain
from typing import Any

from cachetools import LRUCache
from redis.exceptions import RedisClusterException, RedisError, ResponseError

from coherent_cache import scripts
from coherent_cache._tasks import detached
from coherent_cache.breaker import NO_LIMIT_SECONDS, Breaker
from coherent_cache.client import Valkey
from coherent_cache.entry import FILL_ID, HEADER, SCHEMA, TOKEN_BYTES, Entry, decode_entry
from coherent_cache.outcomes import Lease, LookUpAgain, Miss, Wait

# RedisClusterException is not a RedisError. A cluster raises it for a slot that no node covers.
CACHE_ERRORS = (RedisError, RedisClusterException, OSError, TimeoutError)

LEASE_MILLISECONDS = 3_000
TOKEN_MARGIN_SECONDS = 60  # a tag's token outlives every entry that contains it
MAX_LOGGED_TAGS = 10_000
MAX_KNOWN_TAG_KEYS = 50_000  # about 4 MB
KEYS_PER_FLUSH_COMMAND = 1_000
EVERYTHING = ""  # stands for all entries in a message; it is never the name of a tag

Keys = tuple[str, ...]
Values = list[bytes | None]
QueuedRead = tuple[Keys, asyncio.Future[Values]]


class Store:
    """One namespace of Valkey.

    At most one MGET is in flight. Reads that arrive meanwhile are combined into the next MGET.
    """

    def __init__(
        self,
        valkey: Valkey,
        namespace: str,
        code_version: str,
        slow_seconds: float = NO_LIMIT_SECONDS,
    ) -> None:
        self._code_version = code_version
        self.prefix = f"{{{namespace}}}"  # a hash tag: all keys are in one slot of a cluster
        self.channel = f"{self.prefix}invalidations"
        self.breaker = Breaker(slow_seconds)
        self._valkey = valkey
        self._log = f"{self.prefix}log"
        self._lease_script = valkey.register_script(scripts.LEASE)
        self._fill_script = valkey.register_script(scripts.FILL)
        self._release_script = valkey.register_script(scripts.RELEASE)
        self._invalidate_script = valkey.register_script(scripts.INVALIDATE)
        self._probe_script = valkey.register_script(scripts.PROBE)
        # By entry key, so that a look-up can read the entry and its tag tokens in one round trip.
        self._known_tag_keys: LRUCache[str, Keys] = LRUCache(
            MAX_KNOWN_TAG_KEYS, getsizeof=lambda tag_keys: len(tag_keys) + 1
        )
        self._queue: list[QueuedRead] = []
        self._sender: asyncio.Task[None] | None = None

    async def look_up(self, key: str) -> Entry | Miss:
        """Return the entry if it is valid. Needs one round trip if its tags are known, else two."""
        known = self._known_tag_keys.get(key, ())
        raw, *tokens = await self._mget((self._entry_key(key), *known))
        if raw is None or _is_lease(raw):
            return Miss()
        entry = decode_entry(raw)
        if entry is None or entry.key != key:
            return Miss(raw[FILL_ID])
        if (current := self._tag_keys(entry)) != known:
            self._known_tag_keys[key] = current
            tokens = await self._mget(current)
        return entry if _join(tokens) == entry.tokens else Miss(raw[FILL_ID])

    async def is_valid(self, copy: Entry) -> bool:
        """Whether Valkey would still return this entry, which was found or stored some time ago."""
        if not copy.is_alive:
            return False
        return _join(await self._mget(self._tag_keys(copy))) == copy.tokens

    async def lease(
        self, key: str, token: bytes, invalid_fill_id: bytes, *, force: bool = False
    ) -> Lease | Wait | LookUpAgain:
        """Ask for the right to load. Safe to repeat: the same token is granted the lease again.

        With `force`, the caller may load although another reader holds the lease.
        """
        epoch, mode = _random_token(), "force" if force else ""
        answer, *position = await self._execute(
            self._lease_script(
                keys=[self._entry_key(key), self._log],
                args=[token, invalid_fill_id, epoch, LEASE_MILLISECONDS, mode],
            )
        )
        if answer == b"LEASED":
            return Lease(token, position[0], int(position[1]))
        return Wait() if answer == b"WAIT" else LookUpAgain()

    async def fill(self, entry: Entry, lease: Lease) -> bool:
        """Store a loaded entry. Return False if one of its tags was invalidated since the lease."""
        tag_keys = self._tag_keys(entry)
        ttl = int(entry.ttl_seconds * 1000)
        token_ttl = ttl + TOKEN_MARGIN_SECONDS * 1000
        header = HEADER.pack(SCHEMA, _random_token(), len(tag_keys))
        place: list[Any] = [lease.epoch, lease.log_position]
        value: list[Any] = [header, entry.encode(header), ttl, token_ttl]
        tokens = [_random_token() for _ in tag_keys]
        stored: bytes | None = await self._execute(
            self._fill_script(
                keys=[self._entry_key(entry.key), self._log, *tag_keys],
                args=[*place, *value, *tokens, *tag_keys],
            )
        )
        if stored is None:
            return False
        entry.tokens = stored
        self._known_tag_keys[entry.key] = tag_keys
        return True

    async def release(self, key: str, lease: Lease) -> None:
        """Give up an unused lease."""
        await self._execute(self._release_script(keys=[self._entry_key(key)], args=[lease.token]))

    async def invalidate(self, tags: Sequence[str]) -> None:
        """Invalidate every entry that has one of `tags`, and notify all workers. Safe to repeat."""
        await self._execute(self._invalidate_command(tags))

    async def probe(self) -> None:
        """Test whether Valkey accepts writes. Raises what `invalidate` would raise."""
        await self._execute(self._probe_script(keys=[f"{self.prefix}probe"]))

    async def flush(self) -> int:
        """Remove every entry from Valkey and from the memory of every worker.

        Use this after changes that did not invalidate anything: changes by hand, a restore, a
        migration. Loads in progress will not be stored, because the log is deleted first. Returns
        the number of keys that were removed.
        """
        found = await self._valkey.delete(self._log)
        pattern = f"{self.prefix}*"
        keys = [key async for key in self._valkey.scan_iter(pattern, count=KEYS_PER_FLUSH_COMMAND)]
        for at in range(0, len(keys), KEYS_PER_FLUSH_COMMAND):
            found += await self._valkey.unlink(*keys[at : at + KEYS_PER_FLUSH_COMMAND])
        await self._valkey.publish(self.channel, EVERYTHING)
        return int(found)

    async def _mget(self, keys: Keys) -> Values:
        if not keys:
            return []
        answer: asyncio.Future[Values] = asyncio.get_running_loop().create_future()
        self._queue.append((keys, answer))
        if self._sender is None:
            self._sender = detached(self._send_queue())
        return await answer

    async def _send_queue(self) -> None:
        """Send all queued reads, with one MGET for each round trip."""
        try:
            while self._queue:
                batch, self._queue = self._queue, []
                await self._send_batch(batch)
        finally:
            self._sender = None

    async def _send_batch(self, batch: list[QueuedRead]) -> None:
        # Validations of one entry share one tuple of keys. Its `id()` is cheaper than its hash.
        wanted = {id(keys): keys for keys, _ in batch}
        all_keys = list(dict.fromkeys(chain.from_iterable(wanted.values())))
        try:
            with self.breaker.timing_look_up():
                values = await self._execute(self._valkey.mget(all_keys))
        except Exception as error:
            for _, answer in batch:
                if not answer.done():
                    answer.set_exception(error)
            return
        found = dict(zip(all_keys, values, strict=True))
        answers = {keys_id: [found[key] for key in keys] for keys_id, keys in wanted.items()}
        for keys, answer in batch:
            if not answer.done():
                answer.set_result(answers[id(keys)])

    async def _execute(self, command: Awaitable[Any]) -> Any:
        """Await one command, and tell the breaker. An error reply is an answer too."""
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

    def _invalidate_command(self, tags: Sequence[str]) -> Awaitable[Any]:
        tag_keys = [self._tag_key(tag) for tag in tags]
        return self._invalidate_script(
            keys=[self._log, *tag_keys],
            args=[_random_token(), MAX_LOGGED_TAGS, self.channel, "\n".join(tags), *tag_keys],
        )

    def _entry_key(self, key: str) -> str:
        return f"{self.prefix}e:{self._code_version}:{key}"

    def _tag_keys(self, entry: Entry) -> Keys:
        if not entry.tag_keys:
            entry.tag_keys = tuple([self._tag_key(tag) for tag in entry.tags])
        return entry.tag_keys

    def _tag_key(self, tag: str) -> str:
        return f"{self.prefix}t:{tag}"


def new_lease_token() -> bytes:
    """Return a random token that identifies one reader's lease."""
    return _random_token()


def _is_lease(raw: bytes) -> bool:
    """Whether a stored value is a lease. A damaged lease is not one, so it can be overwritten."""
    return raw[:1] == b"L" and len(raw) == 1 + TOKEN_BYTES


def _join(tokens: Values) -> bytes:
    return b"".join([token or b"" for token in tokens])


def _random_token() -> bytes:
    return secrets.token_bytes(TOKEN_BYTES)
