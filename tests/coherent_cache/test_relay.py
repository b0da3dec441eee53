"""A relay repeats the invalidations that their writers could not complete, and watches Valkey."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as ConnectionLost

from coherent_cache import CacheConfig, Entry, invalidate
from coherent_cache import outbox as outbox_module
from coherent_cache import relay as relay_module
from coherent_cache import trust as trust_module
from coherent_cache._tasks import in_background
from coherent_cache.outbox import Outbox, Poll
from coherent_cache.relay import EXPIRY_MARGIN_SECONDS, Relay
from coherent_cache.store import Store
from coherent_cache.together import TAGS_PER_COMMAND
from tests.coherent_cache.harness import Clock
from tests.coherent_cache.service import DatabaseAway, Service, open_service
from tests.coherent_cache.valkey_user import ValkeyUser
from tests.coherent_cache.worker import Proxy, eventually


async def all_relayed(service: Service) -> None:
    """Wait until no row is left."""
    async with asyncio.timeout(60):
        while await service.waiting():
            await asyncio.sleep(0.01)


# Rows


async def test_relay_deletes_the_rows_of_completed_invalidations(service: Service) -> None:
    for tag in ("one", "two"):
        async with service.transaction() as session:
            invalidate(session, tag)
    assert await service.waiting() == [["one"], ["two"]]
    await service.relay.run_once()
    assert not await service.waiting()
    assert not service.cache.invalidation.completed_ids


async def test_cache_is_not_trusted_while_more_changes_wait_than_a_poll_reads(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_module, "MAX_ROWS", 2)
    for tag in "abc":
        await service.leave_behind(tag)
    assert await service.relay.run_once()
    assert not service.cache.trust.holds
    assert await service.waiting() == [["c"]]
    await service.relay.run_once()
    assert service.cache.trust.holds
    assert not await service.waiting()


async def test_running_relay_deletes_the_rows_of_completed_invalidations(
    service: Service, config: CacheConfig, database_url: str
) -> None:
    async with open_service(config, database_url, relay_runs=True) as other:
        async with other.transaction() as session:
            invalidate(session, "tag")
        await all_relayed(service)


async def test_running_relay_invalidates_what_a_crashed_writer_left_behind(
    service: Service, config: CacheConfig, database_url: str
) -> None:
    await service.remember("tag", key="one")
    await service.remember("tag:2", key="two")
    await service.remember("other", key="other")
    await service.leave_behind("tag", "tag:1")
    await service.leave_behind("tag:2")
    async with open_service(config, database_url, relay_runs=True):
        await all_relayed(service)
    assert not await service.is_valid("one")
    assert not await service.is_valid("two")
    assert await service.is_valid("other")
    await eventually(lambda: service.cache.memory.get("one") is None)
    await eventually(lambda: service.cache.memory.get("two") is None)
    assert service.cache.memory.get("other") is not None


async def test_other_processes_relay_the_changes_of_a_process_without_valkey(
    service: Service, cut_off: Service, config: CacheConfig, database_url: str
) -> None:
    await service.remember("tag")
    async with cut_off.transaction() as session:
        invalidate(session, "tag")
    assert await service.is_valid()
    async with open_service(config, database_url, relay_runs=True):
        await all_relayed(service)
    assert not await service.is_valid()


async def test_process_without_valkey_relays_its_changes_when_valkey_returns(
    service: Service, cut_off: Service, proxy: Proxy
) -> None:
    await service.remember("tag")
    async with cut_off.transaction() as session:
        invalidate(session, "tag")
    await proxy.start()
    await service.set_age(30)
    await cut_off.relay.run_once()
    assert not await service.waiting()
    assert not await service.is_valid()


async def test_relay_leaves_a_new_row_to_its_writer(service: Service) -> None:
    await service.remember("tag")
    await service.leave_behind("tag", age_seconds=0)
    service.relay._due_seconds = 600
    await service.relay.run_once()
    assert await service.waiting() == [["tag"]]
    assert await service.is_valid()


async def test_concurrent_relays_relay_everything(service: Service) -> None:
    for number in range(20):
        await service.remember(f"tag:{number}", key=f"key:{number}")
        await service.leave_behind(f"tag:{number}")
    other = service.relay_of(service.outbox)
    await asyncio.gather(service.relay.run_once(), other.run_once())
    assert not await service.waiting()
    assert not [number for number in range(20) if await service.is_valid(f"key:{number}")]


async def test_turn_relays_as_many_tags_as_one_command_takes(service: Service) -> None:
    for row in range(5):
        tags = [f"tag:{row}:{number}" for number in range(TAGS_PER_COMMAND // 2)]
        await service.leave_behind(*tags)
    assert [await service.relay.run_once() for _ in range(3)] == [True, True, False]
    assert not await service.waiting()


async def test_row_with_more_tags_than_one_command_takes_is_relayed(service: Service) -> None:
    tags = [f"tag:{number}" for number in range(2 * TAGS_PER_COMMAND + 1)]
    await service.remember(tags[-1])
    await service.leave_behind(*tags)
    await service.relay.run_once()
    assert not await service.waiting()
    assert not await service.is_valid()


async def test_failed_turn_leaves_its_rows_to_the_next_turn(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    await service.leave_behind("tag")
    await service.remember("tag")

    async def fail(_self: Store, _tags: Sequence[str]) -> None:
        raise ConnectionLost

    with monkeypatch.context() as patch:
        patch.setattr(Store, "invalidate", fail)
        await service.relay.run_once()
    assert await service.waiting() == [["tag"]]
    assert await service.is_valid()
    await service.relay.run_once()
    assert not await service.is_valid()
    assert service.cache.trust.holds


async def test_bad_row_does_not_block_the_others(service: Service) -> None:
    for number in range(10):
        await service.remember(f"tag:{number}", key=f"key:{number}")
        await service.leave_behind(*([None] if number == 0 else []), f"tag:{number}")
    await service.relay.run_once()
    assert await service.waiting() == [[None, "tag:0"]]
    assert [number for number in range(10) if await service.is_valid(f"key:{number}")] == [0]
    assert not service.cache.trust.holds


async def test_row_is_given_up_when_no_entry_can_be_as_old(
    service: Service, config: CacheConfig, caplog: pytest.LogCaptureFixture
) -> None:
    await service.leave_behind(None)
    await service.relay.run_once()
    assert not service.cache.trust.holds
    seconds = config.ttl_seconds + EXPIRY_MARGIN_SECONDS
    for age, is_kept in ((seconds - 30, True), (seconds + 1, False)):
        await service.set_age(age)
        await service.relay.run_once()
        assert bool(await service.waiting()) == is_kept
    [record] = [record for record in caplog.records if "Deleted 1" in record.message]
    assert record.levelname == "ERROR"
    await service.relay.run_once()
    assert service.cache.trust.holds


async def test_rows_of_another_namespace_are_left_alone(service: Service) -> None:
    await service.leave_behind("tag", namespace="another")
    await service.relay.run_once()
    assert await service.waiting() == [["tag"]]
    assert service.cache.trust.holds


async def test_row_from_the_future_counts_as_old(service: Service) -> None:
    await service.leave_behind(None, age_seconds=-3_600)
    await service.relay.run_once()
    assert not service.cache.trust.holds


async def test_running_relay_does_not_pause_for_long_while_more_changes_are_due(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the cache would be distrusted for one such pause after each batch."""
    monkeypatch.setattr(outbox_module, "MAX_ROWS", 2)
    for number in range(7):
        await service.leave_behind(f"tag:{number}")
    service.relay._pause_seconds = 3_600
    async with in_background(service.relay.run, "relay with a long pause"):
        await all_relayed(service)
        await eventually(lambda: service.cache.trust.holds)


# Valkey refuses writes


@pytest.fixture
async def user(config: CacheConfig, worker_id: str) -> AsyncIterator[ValkeyUser]:
    async with Redis.from_url(config.valkey_url) as admin:
        user = ValkeyUser(admin, f"cache_{worker_id}")
        await user.allow_all_but()
        yield user
        await user.delete()


@pytest.fixture
async def restricted(
    user: ValkeyUser, service: Service, config: CacheConfig, database_url: str
) -> AsyncIterator[Service]:
    """A process that uses Valkey as this user."""
    as_user = replace(config, valkey_url=user.url(config.valkey_url))
    async with open_service(as_user, database_url) as restricted:
        yield restricted


async def test_each_turn_tests_whether_valkey_accepts_writes(
    restricted: Service, user: ValkeyUser
) -> None:
    await user.allow_all_but("-@write")
    await restricted.relay.run_once()
    assert not restricted.cache.trust.holds
    await user.allow_all_but()
    await restricted.relay.run_once()
    assert restricted.cache.trust.holds


async def test_refused_write_ends_trust_although_the_database_does_not_answer(
    restricted: Service, user: ValkeyUser
) -> None:
    await user.allow_all_but("-@write")
    await restricted.relay_of(StubOutbox(database_is_away)).run_once()
    assert not restricted.cache.trust.holds


async def test_probe_leaves_no_key_in_valkey(service: Service, valkey: Redis) -> None:
    await service.relay.run_once()
    assert not await valkey.keys()


async def test_reads_share_a_load_while_the_cache_is_distrusted(service: Service) -> None:
    service.cache.trust.withdraw("a reason")
    loads = 0

    async def load() -> Entry:
        nonlocal loads
        loads += 1
        await asyncio.sleep(0)
        return Entry("key", ("tag",), b"value")

    reads = [service.cache.reader.read("key", load) for _ in range(50)]
    answers = await asyncio.gather(*reads)
    assert {answer.source for answer in answers} == {"BYPASS"}
    assert loads == 1


# The database does not answer


class StubOutbox(Outbox):
    """An outbox whose polls do what a test wants."""

    def __init__(self, poll: Callable[[], Any]) -> None:
        self._poll = poll

    async def poll(self) -> Poll:
        poll: Poll = await self._poll()
        return poll


async def database_is_away() -> Poll:
    raise DatabaseAway


@pytest.mark.parametrize("holds", [True, False])
async def test_poll_that_fails_neither_grants_nor_ends_trust(service: Service, holds: bool) -> None:
    if not holds:
        service.cache.trust.withdraw("a reason")
    await service.relay_of(StubOutbox(database_is_away)).run_once()
    assert service.cache.trust.holds is holds


async def test_trust_is_renewed_while_a_poll_waits_for_its_connection(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_module, "SLOW_POLL_SECONDS", 0.001)
    renewed, connected = asyncio.Event(), asyncio.Event()
    monkeypatch.setattr(service.cache.trust, "database_unavailable", lambda _began: renewed.set())

    async def connect() -> Poll:
        await connected.wait()
        return Poll(time.monotonic(), [])

    turn = asyncio.create_task(service.relay_of(StubOutbox(connect)).run_once())
    async with asyncio.timeout(60):
        await renewed.wait()
    assert not turn.done()
    connected.set()
    await turn


@pytest.mark.parametrize("is_answered", [True, False])
async def test_process_that_was_suspended_during_a_poll_distrusts_the_cache(
    service: Service, monkeypatch: pytest.MonkeyPatch, is_answered: bool
) -> None:
    clock = Clock()
    monkeypatch.setattr(relay_module, "time", clock)
    monkeypatch.setattr(relay_module, "SLOW_POLL_SECONDS", 0.001)
    monkeypatch.setattr(trust_module, "time", clock)
    monkeypatch.setattr(trust_module, "LEASE_SECONDS", 1.0)
    trust = service.cache.trust
    trust.polled(clock.now, behind_seconds=0)
    was_trusted = []

    async def suspend() -> Poll:
        began = clock.now
        clock.now += 10
        await asyncio.sleep(0.05)  # SLOW_POLL_SECONDS pass meanwhile
        was_trusted.append(trust.holds)
        if is_answered:
            return Poll(began, [])
        raise DatabaseAway

    await service.relay_of(StubOutbox(suspend)).run_once()
    assert was_trusted == [False]
    assert not trust.holds
    await service.relay_of(StubOutbox(database_is_away)).run_once()
    assert trust.holds


async def test_cancelled_relay_ends(service: Service) -> None:
    polling = asyncio.Event()

    async def never() -> Poll:
        polling.set()
        await asyncio.Event().wait()
        raise AssertionError

    turn = asyncio.create_task(service.relay_of(StubOutbox(never)).run_once())
    await polling.wait()
    turn.cancel()
    with pytest.raises(asyncio.CancelledError):
        await turn


async def test_cache_is_trusted_at_the_first_request(service: Service) -> None:
    assert service.cache.trust.holds


async def test_process_starts_without_its_database_and_distrusts_the_cache(
    config: CacheConfig, valkey: Redis
) -> None:
    nowhere = "postgresql+asyncpg://a:b@127.0.0.1:1/x"
    async with open_service(config, nowhere) as service:
        assert not service.cache.trust.holds


async def test_relay_continues_after_an_unexpected_error(
    service: Service, config: CacheConfig, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coherent_cache._tasks.PAUSE_SECONDS", 0.01)
    run_once, failed = Relay.run_once, list[bool]()

    async def fail_first(self: Relay) -> bool:
        if len(failed) < 2:  # in the poll at start-up, and in the background
            failed.append(True)
            raise RuntimeError("This was raised on purpose.")
        return await run_once(self)

    monkeypatch.setattr(Relay, "run_once", fail_first)
    await service.leave_behind("tag")
    async with open_service(config, database_url, relay_runs=True):
        await all_relayed(service)
    assert len(failed) == 2
