"""What one Valkey has to do for many workers. The time of its clients is not counted."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from redis.asyncio import Redis

from benchmarks.section import Data, table
from benchmarks.world import World
from coherent_cache import CacheConfig
from coherent_cache.client import open_server
from coherent_cache.entry import Entry
from coherent_cache.store import Lease, Miss, Store, random_token

ORDER = 14
TITLE = "What one Valkey does for many workers"
IN_QUICK = False

ENTRIES, WRITES = 2_000, 200
QUICK_ENTRIES = 200
SUBSCRIBERS = (0, 10, 100, 1_000)
TAGS = ("note:1", "notes:new", "notes:new:1")


def entry(number: int, tags: int, size: int) -> Entry:
    """Make an answer that shows so many things."""
    names = tuple(f"note:{number * tags + at}" for at in range(tags))
    return Entry(f"/v1/notes/{number}?", names, os.urandom(size), ttl_seconds=300)


async def put(store: Store, new: Entry) -> None:
    """Lease and fill, as a reader does who has loaded it."""
    token = random_token()
    lease = await store.lease(new.key, token, Miss().invalid_fill_id, force=True)
    assert isinstance(lease, Lease)
    assert await store.fill(new, lease)


async def cpu_seconds(valkey: Redis) -> float:
    """Ask how long it has worked."""
    found: dict[str, Any] = await valkey.info("cpu")
    return float(found["used_cpu_sys"] + found["used_cpu_user"])


async def cost(valkey: Redis, deeds: Sequence[Awaitable[Any]]) -> float:
    """Return the microseconds of Valkey's time for one of these deeds, one after the other."""
    before = await cpu_seconds(valkey)
    for deed in deeds:
        await deed
    return (await cpu_seconds(valkey) - before) / len(deeds) * 1e6


@asynccontextmanager
async def listening(url: str, channel: str, count: int) -> AsyncIterator[None]:
    """Subscribe so often, and take what comes."""
    place = urlsplit(url)
    hello = f"AUTH {place.password}\r\nSUBSCRIBE {channel}\r\n".encode()
    tasks, writers = list[asyncio.Task[None]](), list[asyncio.StreamWriter]()

    async def listen(reader: asyncio.StreamReader) -> None:
        while await reader.read(65_536):
            pass

    for _ in range(count):
        reader, writer = await asyncio.open_connection(place.hostname, place.port)
        writers.append(writer)  # a writer that nobody holds hangs up
        writer.write(hello)
        assert b"subscribe" in await reader.readuntil(b":1\r\n")
        tasks.append(asyncio.create_task(listen(reader)))
    try:
        yield
    finally:
        for task, writer in zip(tasks, writers, strict=True):
            task.cancel()
            writer.close()
        await asyncio.gather(*tasks, return_exceptions=True)


async def rows(url: str, entries: int) -> AsyncIterator[tuple[str, str]]:
    """Measure, and yield what was found."""
    config = CacheConfig(valkey_url=url, code_version="release", timeout_seconds=5)
    async with open_server(config) as valkey:
        store = Store(valkey, config)
        for title, tags, size in (("a post", 2, 1_000), ("a page of 20 posts", 40, 20_000)):
            await valkey.execute_command("FLUSHDB", "SYNC")  # or it would still free memory below
            made = [entry(number, tags, size) for number in range(entries)]
            before = (await valkey.info("memory"))["used_memory"]
            filled = await cost(valkey, [put(store, one) for one in made])
            held = ((await valkey.info("memory"))["used_memory"] - before) / entries
            looked = await cost(valkey, [store.is_valid(one) for one in made])
            yield f"{title}: validate a copy ({tags} tags)", f"{looked:.0f}"
            yield f"{title}: lease and fill", f"{filled:.0f}"
            yield f"{title}: {size} bytes are held in", f"{held:.0f} bytes"
        for count in SUBSCRIBERS[:2] if entries == QUICK_ENTRIES else SUBSCRIBERS:
            async with listening(url, store.channel, count):
                told = await cost(valkey, [store.invalidate(TAGS) for _ in range(WRITES)])
            yield f"an invalidation of 3 tags, {count} workers listen", f"{told:.0f}"


async def measure_all(url: str, entries: int) -> Data:
    return {what: figure async for what, figure in rows(url, entries)}


def measure(world: World) -> Data:
    entries = QUICK_ENTRIES if world.effort.is_quick else ENTRIES
    return asyncio.run(measure_all(world.servers.valkey_url, entries))


def figures(data: Data) -> dict[str, str]:
    del data  # the report shows all of them
    return {}


def report(data: Data) -> str:
    shown = [[what, figure] for what, figure in data.items()]
    return f"{INTRODUCTION}\n\n{table(('what', 'CPU µs of Valkey, or bytes'), shown)}"


INTRODUCTION = """CPU is that of Valkey's one thread, with the time that it spends in the kernel.
It is the first limit that is reached when more and more workers share one Valkey."""
