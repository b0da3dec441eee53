"""The cache that most applications have: GET, load, SET; DEL after the commit; a copy in process.

It keeps which keys show what, so that it deletes all that it should. What it lacks is all that
CACHE says of races: nothing keeps a slow load from storing what was changed meanwhile.
"""

from typing import Any

from redis.asyncio import Redis, RedisCluster
from sqlalchemy.ext.asyncio import AsyncSession

from coherent_cache.config import CacheConfig
from coherent_cache.entry import Entry
from coherent_cache.invalidation import Invalidation, tags_to_invalidate
from coherent_cache.reader import Answer, Load, Reader, Source


def plain_client(config: CacheConfig) -> Redis | RedisCluster:
    """Make a client as redis-py makes it."""
    kind = RedisCluster if config.is_cluster else Redis
    return kind.from_url(config.valkey_url)


def get_from_memory(self: Reader, key: str) -> Entry | None:
    """Return the copy, whatever became of the channel."""
    return self._memory.get(key)


async def read(self: Reader, key: str, load: Load, *, skip_memory: bool = False) -> Answer:
    """GET, else load and SET."""
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
    """Note nothing."""


async def after_commit(self: Invalidation, session: AsyncSession) -> None:
    """DEL what shows the change, and tell the others."""
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
