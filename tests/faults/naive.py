"""The cache of an ordinary application: GET, load on a miss, SET, and DEL after the commit.

It also keeps copies in process memory, and records which keys show which tags, so that it
deletes the right keys. It has no protection against races: a slow load can store data that was
changed meanwhile.
"""

from typing import Any

from redis.asyncio import Redis, RedisCluster
from sqlalchemy.ext.asyncio import AsyncSession

from coherent_cache.config import CacheConfig
from coherent_cache.entry import Entry
from coherent_cache.invalidation import Invalidation, tags_to_invalidate
from coherent_cache.reader import Answer, Load, Reader, Source


def plain_client(config: CacheConfig) -> Redis | RedisCluster:
    """Create a client with redis-py's defaults."""
    kind = RedisCluster if config.is_cluster else Redis
    return kind.from_url(config.valkey_url)


def get_from_memory(self: Reader, key: str) -> Entry | None:
    """Return the copy, even if the channel is not connected."""
    return self._memory.get(key)


async def read(self: Reader, key: str, load: Load, *, skip_memory: bool = False) -> Answer:
    """GET, or else load and SET."""
    valkey: Any = self._store._valkey
    if not skip_memory and (entry := self.get_from_memory(key)) is not None:
        return Answer(entry, Source.MEMORY)
    raw = await valkey.get(f"naive:{key}")
    if raw is not None:
        tags, _, value = raw.partition(b"\n")
        entry, source = Entry(key, tuple(tags.decode().split()), value), Source.VALKEY
    else:
        entry, source = await load(), Source.LOAD
        for tag in entry.tags:
            await valkey.sadd(f"naive-tag:{tag}", key)
        line = " ".join(entry.tags).encode() + b"\n"
        await valkey.set(f"naive:{key}", line + entry.value, ex=300)
    self._memory.put(entry, self._memory.begin_read())
    return Answer(entry, source)


async def before_commit(_self: Invalidation, _session: AsyncSession) -> None:
    """Store nothing in the outbox."""


async def after_commit(self: Invalidation, session: AsyncSession) -> None:
    """DEL the keys that show the change, and publish the tags."""
    valkey: Any = self._store._valkey
    tags = tags_to_invalidate(session)
    for tag in tags:
        if keys := await valkey.smembers(f"naive-tag:{tag}"):
            await valkey.delete(*(b"naive:" + key for key in keys))
    if tags:
        await valkey.publish(self._store.channel, "\n".join(tags))
        self._memory.invalidate(tags)


NAIVE_CACHE = (
    (Reader, "get_from_memory", get_from_memory),
    (Reader, "read", read),
    (Invalidation, "before_commit", before_commit),
    (Invalidation, "after_commit", after_commit),
)
