"""The Valkey tier: the steps of the cache protocol as methods.

The store is correct whatever else uses the same Valkey: other workers, other instances of the
service, and processes that crash between any two steps. Connection errors are passed on, and the
reader decides what to do about them.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from cachetools import LRUCache
from redis.asyncio import Redis, RedisCluster
from redis.exceptions import RedisClusterException, RedisError, ResponseError

from coherent_cache import scripts
from coherent_cache._tasks import detached
from coherent_cache.breaker import Breaker
from coherent_cache.config import CacheConfig
from coherent_cache.entry import FILL_ID, HEADER, SCHEMA, TOKEN_BYTES, Entry, decode_entry
from coherent_cache.together import SentTogether

# RedisClusterException is not a RedisError. A cluster raises it for a slot that no node covers.
CACHE_ERRORS = (RedisError, RedisClusterException, OSError, TimeoutError)

LEASE_MILLISECONDS = 3_000
TOKEN_MARGIN_SECONDS = 60  # a tag's token outlives every entry that contains it
MAX_LOGGED_TAGS = 10_000
MAX_KNOWN_TAG_KEYS = 50_000  # about 4 MB
KEYS_PER_FLUSH_COMMAND = 1_000
EVERYTHING = ""  # stands for all entries in a message; it is never the name of a tag

Valkey = Redis | RedisCluster
Keys = tuple[str, ...]
Values = list[bytes | None]


@dataclass(frozen=True, slots=True)
class Miss:
    """There is no valid entry. `invalid_fill_id` identifies the invalid entry, if there is one."""

    invalid_fill_id: bytes = b""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to load, with the position in the log at which the load begins."""

    token: bytes
    epoch: bytes
    log_position: int


class Store:
    """One namespace of Valkey.

    At most one MGET is in flight. Reads that arrive meanwhile are combined into the next MGET.
    """

    def __init__(self, valkey: Valkey, config: CacheConfig) -> None:
        self.prefix = f"{{{config.namespace}}}"  # a hash tag: all keys are in one slot of a cluster
        self.channel = f"{self.prefix}invalidations"
        self.breaker = Breaker(config.slow_seconds)
        self._valkey = valkey
        self._max_ttl_seconds = config.ttl_seconds
        self._entry_prefix = f"{self.prefix}e:{config.code_version}:"
        self._log = f"{self.prefix}log"
        self._lease_script = valkey.register_script(scripts.LEASE)
        self._fill_script = valkey.register_script(scripts.FILL)
        self._release_script = valkey.register_script(scripts.RELEASE)
        self._invalidate_script: Any = valkey.register_script(scripts.INVALIDATE)
        self._probe_script = valkey.register_script(scripts.PROBE)
        # By entry key, so that a look-up can read the entry and its tag tokens in one round trip.
        self._known_tag_keys: LRUCache[str, Keys] = LRUCache(
            MAX_KNOWN_TAG_KEYS, getsizeof=lambda tag_keys: len(tag_keys) + 1
        )
        self._queue: list[tuple[Keys, asyncio.Future[Values]]] = []
        self._sender: asyncio.Task[None] | None = None
        self._together = SentTogether(lambda tags: self.invalidate(tags))

    async def look_up(self, key: str) -> Entry | Miss:
        """Return the entry if it is valid. Needs one round trip if its tags are known, else two."""
        known = self._known_tag_keys.get(key, ())
        raw, *tokens = await self._mget((self._entry_prefix + key, *known))
        if raw is None or _is_lease(raw):
            return Miss()
        entry = decode_entry(raw)
        if entry is None or entry.key != key:
            return Miss(raw[FILL_ID])
        if (current := self._tag_keys(entry)) != known:
            self._known_tag_keys[key] = current
            tokens = await self._mget(current)
        return entry if _has_tokens(entry, tokens) else Miss(raw[FILL_ID])

    async def is_valid(self, copy: Entry) -> bool:
        """Whether Valkey would still return this entry, which was found or stored some time ago."""
        return copy.is_alive and _has_tokens(copy, await self._mget(self._tag_keys(copy)))

    async def lease(
        self, key: str, token: bytes, invalid_fill_id: bytes, *, force: bool = False
    ) -> Lease | None:
        """Ask for the right to load. Safe to repeat: the same token is granted the lease again.

        None if another reader holds the lease, or has stored an entry meanwhile. Look up again
        after a moment. With `force`, the caller may load all the same.
        """
        mode = "force" if force else ""
        position = await self._execute(
            self._lease_script(
                keys=[self._entry_prefix + key, self._log],
                args=[token, invalid_fill_id, random_token(), LEASE_MILLISECONDS, mode],
            )
        )
        return None if position is None else Lease(token, *position)

    async def fill(self, entry: Entry, lease: Lease) -> bool:
        """Store a loaded entry. Return False if one of its tags was invalidated since the lease."""
        tag_keys = self._tag_keys(entry)
        # The relays give up an invalidation when every entry that it concerns has expired.
        entry.ttl_seconds = min(entry.ttl_seconds, self._max_ttl_seconds)
        ttl = int(entry.ttl_seconds * 1000)
        token_ttl = ttl + TOKEN_MARGIN_SECONDS * 1000
        header = HEADER.pack(SCHEMA, random_token(), len(tag_keys))
        position: list[Any] = [lease.epoch, lease.log_position]
        value: list[Any] = [header, entry.encode(header), ttl, token_ttl]
        new_tokens = [random_token() for _ in tag_keys]
        stored: bytes | None = await self._execute(
            self._fill_script(
                keys=[self._entry_prefix + entry.key, self._log, *tag_keys],
                args=[*position, *value, *new_tokens, *tag_keys],
            )
        )
        if stored is None:
            return False
        entry.tokens = stored
        self._known_tag_keys[entry.key] = tag_keys
        return True

    async def release(self, key: str, lease: Lease) -> None:
        script = self._release_script(keys=[self._entry_prefix + key], args=[lease.token])
        await self._execute(script)

    async def invalidate(self, tags: Sequence[str]) -> None:
        """Invalidate every entry that has one of `tags`, and notify all workers. Safe to repeat."""
        await self._execute(self._invalidate_command(tags))

    async def invalidate_together(self, tags: Sequence[str]) -> None:
        """Invalidate tags by a command that begins after this call, and may have those of others.

        At most one such command is in flight.
        """
        await self._together.send(tags)

    async def probe(self) -> None:
        """Test whether Valkey accepts writes. Raises what `invalidate` would raise."""
        await self._execute(self._probe_script(keys=[f"{self.prefix}probe"]))

    async def flush(self) -> int:
        """Remove every entry from Valkey and from the memory of every worker.

        Loads in progress will not be stored, because the log is deleted first. Returns the number
        of keys that were removed.
        """
        found, size = await self._valkey.delete(self._log), KEYS_PER_FLUSH_COMMAND
        keys = [key async for key in self._valkey.scan_iter(f"{self.prefix}*", count=size)]
        for at in range(0, len(keys), size):
            found += await self._valkey.unlink(*keys[at : at + size])
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
        try:
            while self._queue:
                batch, self._queue = self._queue, []
                await self._send_batch(batch)
        finally:
            self._sender = None

    async def _send_batch(self, batch: list[tuple[Keys, asyncio.Future[Values]]]) -> None:
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

    def _invalidate_command(self, tags: Sequence[str]) -> Any:
        tag_keys = [self._tag_key(tag) for tag in tags]
        return self._invalidate_script(
            keys=[self._log, *tag_keys],
            args=[random_token(), MAX_LOGGED_TAGS, self.channel, "\n".join(tags), *tag_keys],
        )

    def _tag_keys(self, entry: Entry) -> Keys:
        if not entry.tag_keys:
            entry.tag_keys = tuple([self._tag_key(tag) for tag in entry.tags])
        return entry.tag_keys

    def _tag_key(self, tag: str) -> str:
        return f"{self.prefix}t:{tag}"


def random_token() -> bytes:
    """Return a token that no other call returns, in this process or another."""
    return secrets.token_bytes(TOKEN_BYTES)


def _is_lease(raw: bytes) -> bool:
    """Whether a stored value is a lease. A damaged lease is not one, so it can be overwritten."""
    return raw[:1] == b"L" and len(raw) == 1 + TOKEN_BYTES


def _has_tokens(entry: Entry, tokens: Values) -> bool:
    """Whether the entry was stored with these tokens, which are the current ones of its tags."""
    return b"".join([token or b"" for token in tokens]) == entry.tokens
