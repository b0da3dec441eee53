"""Concurrent reads of a key share one load, and no read is answered with an older load."""

import asyncio
import gc

import pytest
from redis.asyncio import Redis

from coherent_cache import budget
from coherent_cache import memory as memory_module
from coherent_cache import reader as reader_module
from coherent_cache.budget import CacheBusy
from coherent_cache.entry import Entry
from coherent_cache.reader import Answer, Source
from coherent_cache.store import Miss, random_token
from tests.coherent_cache.harness import Clock
from tests.coherent_cache.worker import Loader, Worker, eventually, make_worker


@pytest.fixture(autouse=True)
def no_forced_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a slow machine too, a reader waits for the lease of another one."""
    monkeypatch.setattr(reader_module, "MAX_LEASE_WAIT_SECONDS", 60)


async def test_concurrent_reads_share_one_load(worker: Worker, loader: Loader) -> None:
    answers = await asyncio.gather(*(worker.reader.read("key", loader.load) for _ in range(500)))
    assert {answer.entry.value for answer in answers} == {b"1"}
    assert loader.loads == 1


async def test_miss_is_looked_up_once(
    worker: Worker, loader: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each look-up of a miss is a round trip that its client waits for."""
    asked: list[str] = []
    look_up = worker.store.look_up

    async def note(key: str) -> Entry | Miss:
        asked.append(key)
        return await look_up(key)

    monkeypatch.setattr(worker.store, "look_up", note)
    assert (await worker.reader.read("key", loader.load)).source is Source.LOAD
    assert asked == ["key"]


async def test_entry_that_is_no_longer_fresh_is_a_copy_until_it_is_validated(
    worker: Worker, loader: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(memory_module, "time", clock)
    loaded = (await worker.reader.read("key", loader.load)).entry
    clock.now += 3_601
    assert worker.memory.get("key") is None
    assert worker.reader.get_copy("key") is loaded
    assert await worker.reader.read("key", loader.load) == Answer(loaded, Source.VALKEY)
    assert worker.memory.get("key") is loaded
    assert loader.loads == 1


async def test_concurrent_reads_in_two_processes_share_one_load(
    valkey: Redis, loader: Loader
) -> None:
    workers = [make_worker(valkey), make_worker(valkey)]
    readers = [worker.reader for worker in workers] * 250
    await asyncio.gather(*(reader.read("key", loader.load) for reader in readers))
    assert loader.loads == 1


async def test_error_of_a_load_is_shared_and_not_stored(worker: Worker, loader: Loader) -> None:
    loader.error = LookupError()
    reads = [worker.reader.read("key", loader.load) for _ in range(10)]
    assert set(await asyncio.gather(*reads, return_exceptions=True)) == {loader.error}
    assert loader.loads == 1
    loader.error = None
    assert (await worker.reader.read("key", loader.load)).entry.value == b"1"


async def test_copy_that_valkey_has_found_invalid_is_not_shown_again(
    valkey: Redis, worker: Worker, loader: Loader
) -> None:
    await worker.reader.read("key", loader.load)
    await make_worker(valkey).store.invalidate(["tag:key"])
    loader.error = LookupError()
    with pytest.raises(LookupError):
        await worker.reader.read("key", loader.load, skip_memory=True)
    assert worker.memory.get("key") is None


async def test_load_that_failed_leaves_no_lease(
    valkey: Redis, worker: Worker, loader: Loader
) -> None:
    """Otherwise the next reader would wait until the lease expires."""
    loader.error = LookupError()
    with pytest.raises(LookupError):
        await worker.reader.read("key", loader.load)
    assert await make_worker(valkey).store.lease("key", random_token(), b"") is not None


async def test_cancelled_read_does_not_cancel_the_load(worker: Worker, loader: Loader) -> None:
    loader.may_finish.clear()
    cancelled = asyncio.create_task(worker.reader.read("key", loader.load))
    await loader.started.wait()
    cancelled.cancel()
    loader.may_finish.set()
    assert (await worker.reader.read("key", loader.load)).entry.value == b"1"
    assert loader.loads == 1


@pytest.mark.parametrize("when", ["before it begins", "while it waits", "while it runs"])
async def test_key_is_loaded_again_after_its_load_was_cancelled(
    worker: Worker, loader: Loader, when: str
) -> None:
    loader.may_finish.clear()
    reads = [asyncio.create_task(worker.reader.read("key", loader.load))]
    if when != "before it begins":
        await loader.started.wait()
    if when == "while it waits":
        reads.append(asyncio.create_task(worker.reader.read("key", loader.load)))
    loads = worker.reader._running if when == "while it runs" else worker.reader._waiting
    async with asyncio.timeout(60):
        while "key" not in loads:
            await asyncio.sleep(0)  # a longer sleep would miss the moment before the load begins
    loads["key"].cancel()
    loader.may_finish.set()
    with pytest.raises(asyncio.CancelledError):
        await reads[-1]
    assert (await worker.reader.read("key", loader.load)).entry.value == b"1"
    assert not (worker.reader._waiting)
    assert not (worker.reader._running)
    await asyncio.gather(*reads, return_exceptions=True)


async def test_error_of_a_load_without_readers_is_not_logged(
    worker: Worker, loader: Loader
) -> None:
    reported: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    loader.may_finish.clear()
    loader.error = LookupError()
    cancelled = asyncio.create_task(worker.reader.read("key", loader.load))
    await loader.started.wait()
    cancelled.cancel()
    loader.may_finish.set()
    await eventually(lambda: not worker.reader._running)
    del cancelled, loader.error
    gc.collect()  # asyncio reports an exception that nobody retrieved when its task is collected
    asyncio.get_running_loop().set_exception_handler(None)
    assert not reported


async def test_read_begun_during_a_load_shows_a_write_during_that_load(
    worker: Worker, loader: Loader
) -> None:
    loader.may_finish.clear()
    early = asyncio.create_task(worker.reader.read("key", loader.load))
    await loader.started.wait()
    loader.value = b"2"
    await worker.store.invalidate(["tag:key"])
    late = asyncio.create_task(worker.reader.read("key", loader.load))
    await asyncio.sleep(0)
    loader.may_finish.set()
    assert [(await early).entry.value, (await late).entry.value] == [b"1", b"2"]


async def test_wait_for_another_load_counts_towards_the_deadline(
    worker: Worker, loader: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader.may_finish.clear()
    first = asyncio.create_task(worker.reader.read("key", loader.load))
    await loader.started.wait()
    monkeypatch.setattr(budget, "READ_SECONDS", 0.01)
    async with asyncio.timeout(20):
        with pytest.raises(CacheBusy):
            await worker.reader.read("key", loader.load)
    assert loader.loads == 1
    loader.may_finish.set()
    assert (await first).entry.value == b"1"
    await eventually(lambda: not (worker.reader._waiting or worker.reader._running))


async def test_later_read_has_its_own_deadline_after_a_load_timed_out(
    worker: Worker, loader: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader.may_finish.clear()
    monkeypatch.setattr(budget, "READ_SECONDS", 0.2)
    first = asyncio.create_task(worker.reader.read("key", loader.load))
    await loader.started.wait()
    monkeypatch.setattr(budget, "READ_SECONDS", 20)
    second = asyncio.create_task(worker.reader.read("key", loader.load))
    with pytest.raises(CacheBusy):
        await first
    loader.may_finish.set()
    assert (await second).entry.value == b"1"
    assert loader.loads == 2


async def test_waiting_load_has_the_deadline_of_the_last_reader_that_joined_it(
    worker: Worker, loader: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader.may_finish.clear()
    running = asyncio.create_task(worker.reader.read("key", loader.load))
    await loader.started.wait()
    await worker.store.invalidate(["tag:key"])  # so that the waiting load finds no entry
    monkeypatch.setattr(budget, "READ_SECONDS", 0.01)
    with pytest.raises(CacheBusy):
        await worker.reader.read("key", loader.load)
    monkeypatch.setattr(budget, "READ_SECONDS", 60)
    last = asyncio.create_task(worker.reader.read("key", loader.load))
    await asyncio.sleep(0)
    loader.may_finish.set()
    assert (await last).entry.value == b"1"
    assert loader.loads == 2
    await asyncio.gather(running, return_exceptions=True)


async def test_skip_memory_reads_through_valkey(worker: Worker, loader: Loader) -> None:
    worker.channel._last_pong = float("inf")
    await worker.reader.read("key", loader.load)
    loader.value = b"2"
    await worker.store.invalidate(["tag:key"])
    assert (await worker.reader.read("key", loader.load)).entry.value == b"1"
    assert (await worker.reader.read("key", loader.load, skip_memory=True)).entry.value == b"2"


async def test_memory_without_a_live_channel_is_not_used(worker: Worker, loader: Loader) -> None:
    await worker.reader.read("key", loader.load)
    assert worker.memory.get("key") is not None
    assert worker.reader.get_from_memory("key") is None
