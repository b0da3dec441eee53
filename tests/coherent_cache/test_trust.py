"""The cache is trusted for a second after each poll which finds that no invalidation is overdue."""

import time

import pytest
from redis.exceptions import ReadOnlyError

from coherent_cache import trust as trust_module
from coherent_cache.entry import Entry
from coherent_cache.memory import Memory
from coherent_cache.trust import MAX_BEHIND_SECONDS, Trust
from tests.coherent_cache.harness import Clock
from tests.coherent_cache.service import Service

REFUSED = ReadOnlyError("You can't write against a read only replica.")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(trust_module, "time", clock)
    monkeypatch.setattr(trust_module, "LEASE_SECONDS", 1.0)
    return clock


@pytest.fixture
def memory() -> Memory:
    return Memory(max_bytes=1_000_000, ttl_seconds=3_600)


@pytest.fixture
def trust(clock: Clock, memory: Memory) -> Trust:
    return Trust(memory)


def test_cache_is_distrusted_before_the_first_poll(trust: Trust, clock: Clock) -> None:
    assert not trust.holds
    trust.database_unavailable(clock.now)
    assert not trust.holds
    assert "no poll" in str(trust)


def test_trust_expires_a_second_after_its_poll_began(trust: Trust, clock: Clock) -> None:
    began = clock.now
    clock.now += 0.4
    trust.polled(began, behind_seconds=0)
    clock.now = began + 0.99
    assert trust.holds
    assert str(trust) == "trusted"
    clock.now = began + 1
    assert not trust.holds
    assert str(trust).startswith("distrusted: ")


def test_change_that_has_waited_for_more_than_a_second_ends_trust(
    trust: Trust, clock: Clock
) -> None:
    trust.polled(clock.now, behind_seconds=1)
    assert trust.holds
    trust.polled(clock.now, behind_seconds=1.01)
    assert not trust.holds


def test_trust_lasts_while_the_database_does_not_answer(trust: Trust, clock: Clock) -> None:
    trust.polled(clock.now, behind_seconds=0)
    for _ in range(10):
        clock.now += 0.9
        trust.database_unavailable(clock.now)
        assert trust.holds


def test_trust_that_expired_during_a_poll_is_not_renewed_without_an_answer(
    trust: Trust, clock: Clock
) -> None:
    trust.polled(clock.now, behind_seconds=0)
    clock.now += 0.2
    began = clock.now
    clock.now += 10
    trust.database_unavailable(began)
    assert not trust.holds
    trust.database_unavailable(clock.now)
    assert trust.holds


def test_distrust_lasts_while_the_database_does_not_answer(trust: Trust, clock: Clock) -> None:
    trust.polled(clock.now, behind_seconds=5)
    trust.database_unavailable(clock.now)
    assert not trust.holds


def test_failed_invalidation_ends_trust_while_the_database_does_not_answer(
    trust: Trust, clock: Clock
) -> None:
    trust.polled(clock.now, behind_seconds=0)
    clock.now += 0.5
    trust.note_failure(REFUSED)
    assert trust.holds
    trust.database_unavailable(clock.now)
    assert not trust.holds


@pytest.mark.parametrize(("behind_seconds", "holds"), [(0.9, False), (0.2, True)])
def test_failed_invalidation_counts_until_a_poll_shows_that_it_was_relayed(
    trust: Trust, clock: Clock, behind_seconds: float, holds: bool
) -> None:
    trust.note_failure(REFUSED)
    clock.now += 0.5
    trust.polled(clock.now, behind_seconds)  # is the oldest change older than the failure?
    trust.database_unavailable(clock.now)
    assert trust.holds is holds


def test_refused_write_ends_trust_at_once(trust: Trust, clock: Clock) -> None:
    trust.polled(clock.now, behind_seconds=0)
    trust.polled(clock.now, behind_seconds=0, refusal=REFUSED)
    assert not trust.holds


@pytest.mark.parametrize("end", ["refused", "late"])
def test_memory_is_cleared_when_trust_returns(
    trust: Trust, clock: Clock, memory: Memory, end: str
) -> None:
    trust.polled(clock.now, behind_seconds=0)
    memory.put(Entry("key", ("tag",), b"value"), memory.begin_read())
    trust.polled(clock.now, behind_seconds=0)
    assert memory.get_copy("key") is not None
    if end == "refused":
        trust.withdraw("Valkey refuses writes", REFUSED)
    else:
        clock.now += 5
    trust.polled(clock.now, behind_seconds=0)
    assert memory.get_copy("key") is None


def test_late_poll_is_a_warning_only_after_trust_has_been_renewed(
    trust: Trust, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    levels = []
    for _ in range(2):
        trust.polled(clock.now, behind_seconds=0)
        clock.now += 2.7
        trust.polled(clock.now, behind_seconds=0)
        [record] = [record for record in caplog.records if "came late" in record.message]
        levels.append(record.levelname)
        caplog.clear()
    assert levels == ["INFO", "WARNING"]


def test_distrust_is_logged_once_and_names_the_error(
    trust: Trust, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    trust.polled(clock.now, behind_seconds=0)
    for _ in range(5):
        trust.polled(clock.now, behind_seconds=3, refusal=REFUSED)
    [warning] = [record for record in caplog.records if record.levelname == "WARNING"]
    assert "ReadOnlyError: You can't write against a read only replica." in warning.message
    trust.polled(clock.now, behind_seconds=0)
    trust.polled(clock.now, behind_seconds=3)
    assert len([record for record in caplog.records if record.levelname == "WARNING"]) == 2


def test_status_names_only_the_class_of_an_error(
    trust: Trust, caplog: pytest.LogCaptureFixture
) -> None:
    trust.withdraw("a reason", TimeoutError("No answer from valkey.internal:6379\n[SQL: …]"))
    assert str(trust) == "distrusted: a reason (TimeoutError)"
    [warning] = [record.getMessage() for record in caplog.records]
    assert warning.endswith("a reason (TimeoutError: No answer from valkey.internal:6379)")


async def test_process_that_distrusts_valkey_does_not_rely_on_its_messages(
    service: Service,
) -> None:
    """Valkey may keep the connection open while it refuses to publish invalidations."""
    cache = service.cache
    assert cache.hears_invalidations
    cache.trust.polled(time.monotonic(), behind_seconds=MAX_BEHIND_SECONDS + 1)
    assert cache.channel.is_live
    assert not cache.hears_invalidations
