"""The breaker opens for a Valkey that does not answer, and for one whose look-ups stay slow."""

from collections.abc import Callable
from dataclasses import replace
from urllib.parse import urlsplit, urlunsplit

import pytest
from redis.exceptions import ConnectionError as ConnectionLost

from coherent_cache import breaker
from coherent_cache.breaker import (
    FAILURES_TO_OPEN,
    MAX_OPEN_SECONDS,
    SLOW_LOOK_UPS_TO_OPEN,
    Breaker,
)
from coherent_cache.client import open_server
from coherent_cache.config import CacheConfig
from coherent_cache.store import Store
from tests.coherent_cache.harness import Clock


class OverdueTimer:
    """A timer that expires when a test calls `expire`."""

    last: "OverdueTimer"

    def __init__(self, _seconds: float, callback: Callable[[], object]) -> None:
        self.expire = callback
        OverdueTimer.last = self

    def cancel(self) -> None:
        pass


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(breaker, "time", clock)
    monkeypatch.setattr(breaker, "OverdueTimer", OverdueTimer)
    return clock


@pytest.fixture
def open_breaker(clock: Clock) -> Breaker:
    """A breaker that slow look-ups have opened."""
    breaker = Breaker(slow_seconds=60)
    for _ in range(SLOW_LOOK_UPS_TO_OPEN):
        assert breaker.allows()
        look_up(breaker, is_slow=True)
    return breaker


def look_up(breaker: Breaker, *, is_slow: bool) -> None:
    with breaker.timing_look_up():
        if is_slow:
            OverdueTimer.last.expire()
        breaker.succeeded()


def test_slow_look_ups_open_the_breaker(open_breaker: Breaker) -> None:
    assert open_breaker.is_open
    assert not open_breaker.allows()


def test_breaker_opens_before_the_last_slow_look_up_ends(clock: Clock) -> None:
    breaker = Breaker(slow_seconds=60)
    for _ in range(SLOW_LOOK_UPS_TO_OPEN - 1):
        look_up(breaker, is_slow=True)
    with breaker.timing_look_up():
        assert breaker.allows()
        OverdueTimer.last.expire()
        assert not breaker.allows()


def test_fast_look_up_between_slow_ones_keeps_the_breaker_closed(clock: Clock) -> None:
    breaker = Breaker(slow_seconds=60)
    for number in range(10 * SLOW_LOOK_UPS_TO_OPEN):
        look_up(breaker, is_slow=number % SLOW_LOOK_UPS_TO_OPEN != 0)
        assert not breaker.is_open


def test_look_ups_that_time_out_count_as_slow(
    clock: Clock,
) -> None:
    breaker = Breaker(slow_seconds=60)
    for number in range(SLOW_LOOK_UPS_TO_OPEN):
        if number % 2:
            look_up(breaker, is_slow=True)
        else:
            with pytest.raises(TimeoutError), breaker.timing_look_up():
                OverdueTimer.last.expire()
                breaker.failed(ConnectionLost())
                raise TimeoutError
    assert breaker.is_open


def test_answer_to_another_command_does_not_close_the_breaker(open_breaker: Breaker) -> None:
    open_breaker.succeeded()
    assert open_breaker.is_open


def test_slow_probe_does_not_close_the_breaker(open_breaker: Breaker, clock: Clock) -> None:
    for _ in range(3):
        clock.now += MAX_OPEN_SECONDS
        assert [open_breaker.allows(), open_breaker.allows()] == [True, False]
        look_up(open_breaker, is_slow=True)
        assert not open_breaker.allows()


def test_fast_probe_closes_the_breaker(open_breaker: Breaker, clock: Clock) -> None:
    clock.now += MAX_OPEN_SECONDS
    assert open_breaker.allows()
    look_up(open_breaker, is_slow=False)
    assert not open_breaker.is_open
    assert [open_breaker.allows(), open_breaker.allows()] == [True, True]


def test_slow_answer_resets_the_count_of_failures(clock: Clock) -> None:
    breaker = Breaker(slow_seconds=60)
    for _ in range(FAILURES_TO_OPEN):
        breaker.failed(ConnectionLost())
    assert breaker.is_open
    look_up(breaker, is_slow=True)
    assert not breaker.is_open


async def test_warning_about_a_wrong_password_names_the_setting_and_not_its_value(
    config: CacheConfig, caplog: pytest.LogCaptureFixture
) -> None:
    url = urlsplit(config.valkey_url)
    credentials = f"stranger:hunter2@{url.hostname}:{url.port}"
    wrong = replace(config, valkey_url=urlunsplit(url._replace(netloc=credentials)))
    async with open_server(wrong) as valkey:
        store = Store(valkey, config)
        for _ in range(FAILURES_TO_OPEN):
            with pytest.raises(ConnectionLost):
                await store.probe()
    [warning] = caplog.messages
    assert "AuthenticationError: invalid username-password pair" in warning
    assert "correct VALKEY_URL" in warning
    assert "hunter2" not in warning
