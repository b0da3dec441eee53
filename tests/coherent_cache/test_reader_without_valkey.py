"""Without a fast Valkey, reads bypass the cache, and the load on the database stays limited."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial

import pytest
from redis.asyncio import Redis

from coherent_cache import NoCache, breaker
from coherent_cache import reader as reader_module
from coherent_cache.budget import CacheBusy
from coherent_cache.client import open_server
from coherent_cache.entry import Entry
from coherent_cache.reader import Answer, Source
from coherent_cache.store import Store
from tests.coherent_cache.worker import (
    CONFIG,
    Loader,
    Proxy,
    Worker,
    config_of,
    eventually,
    make_worker,
)


@pytest.fixture(autouse=True)
def no_forced_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a slow machine too, a reader waits for the lease of another one."""
    monkeypatch.setattr(reader_module, "MAX_LEASE_WAIT_SECONDS", 60)


# Valkey is unreachable


@pytest.fixture
async def unreachable_worker(proxy: Proxy, valkey: Redis) -> AsyncIterator[Worker]:
    """A worker that reaches Valkey only through the proxy."""
    async with open_server(config_of(proxy.url)) as client:
        yield make_worker(client)


async def test_reads_are_answered_a_few_at_a_time_without_valkey(
    unreachable_worker: Worker, loader: Loader
) -> None:
    reads = [
        unreachable_worker.reader.read(
            f"key:{number % 50}", partial(loader.load, f"key:{number % 50}")
        )
        for number in range(500)
    ]
    answers: list[Answer] = await asyncio.gather(*reads)
    assert [answer.entry.key for answer in answers] == [
        f"key:{number % 50}" for number in range(500)
    ]
    assert loader.loads == 50
    assert loader.max_running == 2
    assert not unreachable_worker.reader._running
    assert not unreachable_worker.reader._waiting


async def test_read_is_refused_when_too_many_loads_bypass_the_cache(
    unreachable_worker: Worker, loader: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader_module, "BYPASS_WAIT_SECONDS", 0.01)
    loader.may_finish.clear()
    running = [
        asyncio.create_task(unreachable_worker.reader.read(key, loader.load)) for key in "ab"
    ]
    await eventually(lambda: loader.running == 2)
    with pytest.raises(CacheBusy):
        await unreachable_worker.reader.read("c", loader.load)
    loader.may_finish.set()
    await asyncio.gather(*running)


async def test_open_breaker_sends_nothing_to_valkey(
    unreachable_worker: Worker, loader: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def look_up(key: str) -> None:
        pytest.fail(f"{key} was looked up in Valkey")

    unreachable_worker.store.breaker._next_probe_at = float("inf")
    unreachable_worker.store.breaker._failures = breaker.FAILURES_TO_OPEN
    monkeypatch.setattr(unreachable_worker.store, "look_up", look_up)
    assert (await unreachable_worker.reader.read("key", loader.load)).entry.value == b"1"


async def test_valkey_is_used_again_when_it_returns(
    unreachable_worker: Worker,
    proxy: Proxy,
    valkey: Redis,
    loader: Loader,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(breaker, "MIN_OPEN_SECONDS", 0)
    monkeypatch.setattr(breaker, "MAX_OPEN_SECONDS", 0)
    for _ in range(breaker.FAILURES_TO_OPEN):
        await unreachable_worker.reader.read("key", loader.load)
    await proxy.start()
    while not isinstance(await Store(valkey, CONFIG).look_up("key"), Entry):
        await unreachable_worker.reader.read("key", loader.load)
    loads = loader.loads
    await unreachable_worker.reader.read("key", loader.load, skip_memory=True)
    assert loader.loads == loads


# Valkey is slow

SLOW_SECONDS, CACHE_SECONDS, DELAY_SECONDS = 0.03, 0.06, 0.15


@pytest.fixture
async def slow_worker(proxy: Proxy, valkey: Redis) -> AsyncIterator[Worker]:
    """A worker whose commands all take long."""
    await proxy.start()
    proxy.delay_seconds = DELAY_SECONDS
    async with open_server(config_of(proxy.url)) as client:
        worker = make_worker(client, slow_seconds=SLOW_SECONDS, timeout_seconds=CACHE_SECONDS)
        yield worker
        await eventually(lambda: worker.store._sender is None)


async def test_read_does_not_wait_for_a_slow_valkey(slow_worker: Worker, loader: Loader) -> None:
    answer = await slow_worker.reader.read("key", loader.load)
    assert (answer.entry.value, answer.source) == (b"1", Source.BYPASS)


async def test_slow_valkey_is_avoided_until_it_is_fast_again(
    slow_worker: Worker, proxy: Proxy, loader: Loader
) -> None:
    async with asyncio.timeout(30):
        while not slow_worker.store.breaker.is_open:
            assert (await slow_worker.reader.read("key", loader.load)).source is Source.BYPASS
    await slow_worker.store.invalidate(["tag:key"])  # invalidations ignore the breaker
    assert slow_worker.store.breaker.is_open
    proxy.delay_seconds = 0
    async with asyncio.timeout(30):
        while (await slow_worker.reader.read("key", loader.load)).source is not Source.VALKEY:
            await asyncio.sleep(0.01)
    assert not slow_worker.store.breaker.is_open


async def test_read_after_a_slow_answer_takes_no_lease(
    slow_worker: Worker, valkey: Redis, loader: Loader
) -> None:
    slow_worker.reader._config = replace(CONFIG, slow_seconds=SLOW_SECONDS)  # enough for a lease
    assert (await slow_worker.reader.read("key", loader.load)).source is Source.BYPASS
    assert not await valkey.keys(f"{slow_worker.store.prefix}e:*")


async def test_delay_of_a_busy_process_does_not_count_as_slow(
    valkey: Redis, loader: Loader
) -> None:
    worker = make_worker(valkey, slow_seconds=0.05, timeout_seconds=0.1)
    await worker.reader.read("key", loader.load)
    sources = []
    for _ in range(2 * breaker.SLOW_LOOK_UPS_TO_OPEN):
        reading = asyncio.create_task(worker.reader.read("key", loader.load))
        for _ in range(5):  # until the command has been sent
            await asyncio.sleep(0)
        time.sleep(0.15)  # noqa: ASYNC251 - the event loop is blocked on purpose, beyond the timeout
        sources.append((await reading).source)
    assert set(sources) == {Source.VALKEY}
    assert not worker.store.breaker.is_open


# The cache is switched off


async def test_cache_that_is_switched_off_keeps_nothing_and_loads_for_every_read(
    loader: Loader,
) -> None:
    reader = NoCache()
    for number in (1, 2):
        answer = await reader.read("key", loader.load)
        assert (answer.source, loader.loads) == (Source.BYPASS, number)
        assert reader.get_from_memory("key") is None
        assert reader.get_copy("key") is None
