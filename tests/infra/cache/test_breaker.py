"""The breaker opens for a Valkey that does not answer, and for one whose look-ups stay slow."""

from collections.abc import Callable
from urllib.parse import urlsplit, urlunsplit

import pytest
from pydantic import SecretStr
from redis.exceptions import ConnectionError as ConnectionLost

from app.infra.cache import breaker
from app.infra.cache.breaker import FAILURES, LONGEST_SECONDS, SLOW_LOOK_UPS, Breaker
from app.infra.cache.client import open_server
from app.infra.cache.store import Store
from app.settings import Settings
from tests.infra.cache.laboratory import Clock


class Overdue:
    """A timer that rings when the test says so."""

    last: "Overdue"

    def __init__(self, _seconds: float, callback: Callable[[], object]) -> None:
        self.ring = callback
        Overdue.last = self

    def cancel(self) -> None:
        pass


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(breaker, "time", clock)
    monkeypatch.setattr(breaker, "Overdue", Overdue)
    return clock


@pytest.fixture
def slow(clock: Clock) -> Breaker:
    """A breaker that slow look-ups have opened."""
    breaker = Breaker()
    for _ in range(SLOW_LOOK_UPS):
        assert breaker.allows()
        look_up(breaker, is_slow=True)
    return breaker


def look_up(breaker: Breaker, *, is_slow: bool) -> None:
    with breaker.timing_look_up():
        if is_slow:
            Overdue.last.ring()
        breaker.succeeded()


def test_slow_look_ups_open_it(slow: Breaker) -> None:
    assert slow.is_open
    assert not slow.allows()


def test_it_opens_while_the_last_of_them_still_waits(clock: Clock) -> None:
    breaker = Breaker()
    for _ in range(SLOW_LOOK_UPS - 1):
        look_up(breaker, is_slow=True)
    with breaker.timing_look_up():
        assert breaker.allows()
        Overdue.last.ring()
        assert not breaker.allows()


def test_a_quick_look_up_between_slow_ones_keeps_it_closed(clock: Clock) -> None:
    breaker = Breaker()
    for number in range(10 * SLOW_LOOK_UPS):
        look_up(breaker, is_slow=number % SLOW_LOOK_UPS != 0)
        assert not breaker.is_open


def test_look_ups_that_time_out_are_slow_even_if_others_are_answered(
    clock: Clock,
) -> None:
    breaker = Breaker()
    for number in range(SLOW_LOOK_UPS):
        if number % 2:
            look_up(breaker, is_slow=True)
        else:
            with pytest.raises(TimeoutError), breaker.timing_look_up():
                Overdue.last.ring()
                breaker.failed(ConnectionLost())
                raise TimeoutError
    assert breaker.is_open


def test_another_command_that_is_answered_does_not_close_it(slow: Breaker) -> None:
    slow.succeeded()
    assert slow.is_open


def test_one_slow_probe_a_pause_does_not_close_it(slow: Breaker, clock: Clock) -> None:
    for _ in range(3):
        clock.now += LONGEST_SECONDS
        assert [slow.allows(), slow.allows()] == [True, False]
        look_up(slow, is_slow=True)
        assert not slow.allows()


def test_a_quick_probe_closes_it(slow: Breaker, clock: Clock) -> None:
    clock.now += LONGEST_SECONDS
    assert slow.allows()
    look_up(slow, is_slow=False)
    assert not slow.is_open
    assert [slow.allows(), slow.allows()] == [True, True]


def test_a_slow_answer_ends_a_row_of_failures(clock: Clock) -> None:
    breaker = Breaker()
    for _ in range(FAILURES):
        breaker.failed(ConnectionLost())
    assert breaker.is_open
    look_up(breaker, is_slow=True)
    assert not breaker.is_open


async def test_a_wrong_password_is_named_with_the_setting_and_not_its_value(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    url = urlsplit(settings.valkey.url.get_secret_value())
    place = f"stranger:hunter2@{url.hostname}:{url.port}"
    wrong = settings.valkey.model_copy(
        update={"url": SecretStr(urlunsplit(url._replace(netloc=place)))}
    )
    async with open_server(wrong) as valkey:
        store = Store(valkey, "namespace", "release")
        for _ in range(FAILURES):
            with pytest.raises(ConnectionLost):
                await store.probe()
    [warning] = caplog.messages
    assert "AuthenticationError: invalid username-password pair" in warning
    assert "correct VALKEY_URL" in warning
    assert "hunter2" not in warning
