"""The breaker opens after three failures in a row, and then lets one probe at a time decide."""

import asyncio

import pytest

from app.infra import breaker as breaker_module
from app.infra.breaker import FAILURES_TO_OPEN, MAX_OPEN_SECONDS, Breaker, BreakerOpen


class Clock:
    """Replaces the module `time`. It only moves when a test sets `now`."""

    now = 1_000.0

    def monotonic(self) -> float:
        return self.now


class Server:
    """Answers, fails or waits, and counts the calls that reach it through its breaker."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.calls = 0
        self.breaker = Breaker(
            on_open=lambda error: self.events.append(f"open: {error}"),
            on_close=lambda: self.events.append("closed"),
        )

    async def call(self, error: str = "", until: asyncio.Event | None = None) -> None:
        with self.breaker.call():
            self.calls += 1
            if until:
                await until.wait()
            if error:
                raise OSError(error)

    async def fail(self, times: int = FAILURES_TO_OPEN) -> None:
        for number in range(times):
            with pytest.raises(OSError, match="gone"):
                await self.call(f"gone {number}")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(breaker_module, "time", clock)
    return clock


@pytest.fixture
def server(clock: Clock) -> Server:
    return Server()


async def test_three_failures_in_a_row_open_it(server: Server) -> None:
    await server.fail(FAILURES_TO_OPEN - 1)
    await server.call()
    await server.fail(FAILURES_TO_OPEN - 1)
    assert not server.breaker.is_open
    await server.fail(1)
    assert server.breaker.is_open
    assert server.events == ["open: gone 0"]
    with pytest.raises(BreakerOpen):
        await server.call()


async def test_one_probe_is_let_through_after_the_pause(server: Server, clock: Clock) -> None:
    await server.fail()
    clock.now += MAX_OPEN_SECONDS
    server.calls, answered = 0, asyncio.Event()
    tasks = [asyncio.create_task(server.call(until=answered)) for _ in range(100)]
    await asyncio.sleep(0)
    clock.now += 100 * MAX_OPEN_SECONDS  # a slow probe is still the only one
    assert not server.breaker.admits
    answered.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert server.calls == 1
    assert [type(result) for result in results] == [type(None)] + 99 * [BreakerOpen]
    assert server.events[1:] == ["closed"]
    await server.call()


async def test_a_probe_that_fails_begins_another_pause(server: Server, clock: Clock) -> None:
    await server.fail()
    for _ in range(3):
        clock.now += MAX_OPEN_SECONDS
        await server.fail(1)
        with pytest.raises(BreakerOpen):
            await server.call()
    assert server.events == ["open: gone 2"]  # it is told once
    clock.now += MAX_OPEN_SECONDS
    await server.call()
    assert not server.breaker.is_open


async def cancelled(server: Server) -> None:
    task = asyncio.create_task(server.call(until=asyncio.Event()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_cancelled_call_is_neither_a_failure_nor_a_success(server: Server) -> None:
    for _ in range(10):
        await cancelled(server)
    assert not server.breaker.is_open
    await server.fail(FAILURES_TO_OPEN - 1)
    await cancelled(server)
    await server.fail(1)
    assert server.breaker.is_open


async def test_a_cancelled_probe_lets_the_next_call_be_the_probe(
    server: Server, clock: Clock
) -> None:
    await server.fail()
    clock.now += MAX_OPEN_SECONDS
    await cancelled(server)
    assert server.breaker.is_open
    await server.call()
    assert not server.breaker.is_open


@pytest.mark.parametrize("error", ["", "gone"])
async def test_calls_that_began_before_it_opened_change_nothing(
    server: Server, clock: Clock, error: str
) -> None:
    answered = asyncio.Event()
    early = asyncio.create_task(server.call(error, until=answered))
    await asyncio.sleep(0)
    await server.fail()
    clock.now += MAX_OPEN_SECONDS
    answered.set()
    await asyncio.gather(early, return_exceptions=True)
    assert server.breaker.is_open
    assert server.breaker.admits
