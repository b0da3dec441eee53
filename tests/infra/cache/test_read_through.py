"""One load serves many, nobody gets what is older than their question, and Valkey may be away."""

import asyncio
import gc
import socket
import time
from collections.abc import AsyncIterator
from functools import partial

import pytest
from redis.asyncio import Redis

from app.errors import Unavailable
from app.infra.cache import breaker, budget, read_through
from app.infra.cache.breaker import NEVER
from app.infra.cache.client import open_server
from app.infra.cache.entry import Entry
from app.infra.cache.read_through import Answer
from app.infra.cache.read_through import Source as From
from app.infra.cache.store import Store
from app.sections import ValkeySettings
from tests.infra.cache.worker import NAMES, Proxy, Source, Worker, eventually, make_worker


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody loads a second time because the machine is slow."""
    monkeypatch.setattr(read_through, "LONGEST_WAIT_SECONDS", 60)


@pytest.fixture
async def worker(valkey: Redis) -> Worker:
    return make_worker(valkey)


@pytest.fixture
async def source() -> Source:
    return Source()


async def test_one_load_serves_many(worker: Worker, source: Source) -> None:
    answers = await asyncio.gather(*(worker.reader.read("key", source.load) for _ in range(500)))
    assert {answer.entry.value for answer in answers} == {b"1"}
    assert source.loads == 1


async def test_one_load_serves_many_in_two_processes(valkey: Redis, source: Source) -> None:
    workers = [make_worker(valkey), make_worker(valkey)]
    readers = [worker.reader for worker in workers] * 250
    await asyncio.gather(*(reader.read("key", source.load) for reader in readers))
    assert source.loads == 1


async def test_an_error_is_shared_and_not_stored(worker: Worker, source: Source) -> None:
    source.error = LookupError()
    reads = [worker.reader.read("key", source.load) for _ in range(10)]
    assert set(await asyncio.gather(*reads, return_exceptions=True)) == {source.error}
    assert source.loads == 1
    source.error = None
    assert (await worker.reader.read("key", source.load)).entry.value == b"1"


async def test_whoever_leaves_does_not_take_the_load_along(worker: Worker, source: Source) -> None:
    source.may_end.clear()
    leaving = asyncio.create_task(worker.reader.read("key", source.load))
    await source.begun.wait()
    leaving.cancel()
    source.may_end.set()
    assert (await worker.reader.read("key", source.load)).entry.value == b"1"
    assert source.loads == 1


async def test_an_error_that_nobody_waits_for_is_no_noise(worker: Worker, source: Source) -> None:
    noise: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: noise.append(context))
    source.may_end.clear()
    source.error = LookupError()
    leaving = asyncio.create_task(worker.reader.read("key", source.load))
    await source.begun.wait()
    leaving.cancel()
    source.may_end.set()
    await eventually(lambda: not worker.reader._running)
    del leaving, source.error
    gc.collect()  # an error that nobody has taken is told of at its end
    asyncio.get_running_loop().set_exception_handler(None)
    assert not noise


async def test_whoever_comes_late_gets_what_was_written_meanwhile(
    worker: Worker, source: Source
) -> None:
    source.may_end.clear()
    early = asyncio.create_task(worker.reader.read("key", source.load))
    await source.begun.wait()
    source.value = b"2"
    await worker.store.invalidate(["tag:key"])
    late = asyncio.create_task(worker.reader.read("key", source.load))
    await asyncio.sleep(0)
    source.may_end.set()
    assert [(await early).entry.value, (await late).entry.value] == [b"1", b"2"]


async def test_a_read_does_not_wait_for_another_load_and_then_its_own(
    worker: Worker, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    source.may_end.clear()
    first = asyncio.create_task(worker.reader.read("key", source.load))
    await source.begun.wait()
    monkeypatch.setattr(budget, "READ_SECONDS", 0.01)
    async with asyncio.timeout(20):
        with pytest.raises(Unavailable):
            await worker.reader.read("key", source.load)
    assert source.loads == 1
    source.may_end.set()
    assert (await first).entry.value == b"1"
    await eventually(lambda: not (worker.reader._waiting or worker.reader._running))


async def test_a_load_that_takes_too_long_is_given_up_and_who_came_later_has_their_own_time(
    worker: Worker, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    source.may_end.clear()
    monkeypatch.setattr(budget, "READ_SECONDS", 0.2)
    first = asyncio.create_task(worker.reader.read("key", source.load))
    await source.begun.wait()
    monkeypatch.setattr(budget, "READ_SECONDS", 20)
    second = asyncio.create_task(worker.reader.read("key", source.load))
    with pytest.raises(Unavailable):
        await first
    source.may_end.set()
    assert (await second).entry.value == b"1"
    assert source.loads == 2


async def test_a_waiting_load_has_the_time_of_the_last_caller_who_joined_it(
    worker: Worker, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    source.may_end.clear()
    running = asyncio.create_task(worker.reader.read("key", source.load))
    await source.begun.wait()
    await worker.store.invalidate(["tag:key"])  # so that the waiting load finds nothing stored
    monkeypatch.setattr(budget, "READ_SECONDS", 0.01)
    with pytest.raises(Unavailable):
        await worker.reader.read("key", source.load)
    monkeypatch.setattr(budget, "READ_SECONDS", 60)
    last = asyncio.create_task(worker.reader.read("key", source.load))
    await asyncio.sleep(0)
    source.may_end.set()
    assert (await last).entry.value == b"1"
    assert source.loads == 2
    await asyncio.gather(running, return_exceptions=True)


async def test_a_reader_may_go_past_the_memory(worker: Worker, source: Source) -> None:
    worker.channel._last_pong = float("inf")
    await worker.reader.read("key", source.load)
    source.value = b"2"
    await worker.store.invalidate(["tag:key"])
    assert (await worker.reader.read("key", source.load)).entry.value == b"1"
    assert (await worker.reader.read("key", source.load, skip_memory=True)).entry.value == b"2"


async def test_a_memory_that_hears_nothing_is_not_asked(worker: Worker, source: Source) -> None:
    await worker.reader.read("key", source.load)
    assert worker.memory.get("key") is not None
    assert worker.reader.remembered("key") is None


# Valkey is away


@pytest.fixture
async def proxy(valkey_settings: ValkeySettings) -> AsyncIterator[Proxy]:
    """Stands before Valkey, and is away at first."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    proxy = Proxy(valkey_settings, port)
    yield proxy
    proxy.stop()


@pytest.fixture
async def cut_off(proxy: Proxy, valkey: Redis) -> AsyncIterator[Worker]:
    """A worker that reaches Valkey through the proxy alone."""
    async with open_server(proxy.settings()) as far:
        yield make_worker(far)


async def test_without_valkey_everyone_is_answered_a_few_at_a_time(
    cut_off: Worker, source: Source
) -> None:
    reads = [
        cut_off.reader.read(f"key:{number % 50}", partial(source.load, f"key:{number % 50}"))
        for number in range(500)
    ]
    answers: list[Answer] = await asyncio.gather(*reads)
    assert [answer.entry.key for answer in answers] == [
        f"key:{number % 50}" for number in range(500)
    ]
    assert source.loads == 50
    assert source.most_running == 2
    assert not cut_off.reader._running
    assert not cut_off.reader._waiting


async def test_what_is_too_much_for_the_database_is_refused(
    cut_off: Worker, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_through, "BYPASS_SECONDS", 0.01)
    source.may_end.clear()
    running = [asyncio.create_task(cut_off.reader.read(key, source.load)) for key in "ab"]
    await eventually(lambda: source.running == 2)
    with pytest.raises(Unavailable):
        await cut_off.reader.read("c", source.load)
    source.may_end.set()
    await asyncio.gather(*running)


async def test_an_open_breaker_does_not_ask(cut_off: Worker, source: Source) -> None:
    cut_off.store.breaker._closed_again_at = float("inf")
    cut_off.store.breaker._failures = breaker.FAILURES
    cut_off.store.look_up = None  # type: ignore[assignment, method-assign]
    assert (await cut_off.reader.read("key", source.load)).entry.value == b"1"


async def test_valkey_is_used_again_when_it_is_back(
    cut_off: Worker, proxy: Proxy, valkey: Redis, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(breaker, "SHORTEST_SECONDS", 0)
    monkeypatch.setattr(breaker, "LONGEST_SECONDS", 0)
    for _ in range(breaker.FAILURES):
        await cut_off.reader.read("key", source.load)
    await proxy.start()
    while not isinstance(await Store(valkey, *NAMES).look_up("key"), Entry):
        await cut_off.reader.read("key", source.load)
    loads = source.loads
    await cut_off.reader.read("key", source.load, skip_memory=True)
    assert source.loads == loads


# Valkey is slow

SLOW_SECONDS, CACHE_SECONDS, DELAY_SECONDS = 0.03, 0.06, 0.15


@pytest.fixture
async def far(proxy: Proxy, valkey: Redis) -> AsyncIterator[Worker]:
    """A worker whose every command takes long."""
    await proxy.start()
    proxy.delay_seconds = DELAY_SECONDS
    async with open_server(proxy.settings()) as client:
        worker = make_worker(client, slow_seconds=SLOW_SECONDS, cache_seconds=CACHE_SECONDS)
        yield worker
        await eventually(lambda: worker.store._asking is None)


async def test_a_slow_valkey_is_not_waited_for(far: Worker, source: Source) -> None:
    answer = await far.reader.read("key", source.load)
    assert (answer.entry.value, answer.source) == (b"1", From.PAST)


async def test_a_slow_valkey_is_avoided_and_used_again_when_it_is_quick(
    far: Worker, proxy: Proxy, source: Source
) -> None:
    async with asyncio.timeout(30):
        while not far.store.breaker.is_open:
            assert (await far.reader.read("key", source.load)).source is From.PAST
    await far.store.invalidate(["tag:key"])  # which is not asked of the breaker
    assert far.store.breaker.is_open
    proxy.delay_seconds = 0
    async with asyncio.timeout(30):
        while (await far.reader.read("key", source.load)).source is not From.VALKEY:
            await asyncio.sleep(0.01)
    assert not far.store.breaker.is_open


async def test_a_read_that_meets_a_slow_answer_leaves_no_lease(
    far: Worker, valkey: Redis, source: Source
) -> None:
    far.reader._cache_seconds = NEVER  # there would be time enough for one
    assert (await far.reader.read("key", source.load)).source is From.PAST
    assert not await valkey.keys(f"{far.store.prefix}e:*")


async def test_a_busy_process_does_not_take_its_own_delay_for_valkeys(
    valkey: Redis, source: Source
) -> None:
    worker = make_worker(valkey, slow_seconds=0.05, cache_seconds=0.1)
    await worker.reader.read("key", source.load)
    sources = []
    for _ in range(2 * breaker.SLOW_LOOK_UPS):
        reading = asyncio.create_task(worker.reader.read("key", source.load))
        for _ in range(5):  # until the command has been sent
            await asyncio.sleep(0)
        time.sleep(0.15)  # noqa: ASYNC251 - this process is busy, longer than the cache may take
        sources.append((await reading).source)
    assert set(sources) == {From.VALKEY}
    assert not worker.store.breaker.is_open
