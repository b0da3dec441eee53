"""Background tasks and threads start again when they fail, and end with the process."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from contextvars import ContextVar

import httpx2
import pytest
from fastapi import FastAPI
from prometheus_client import REGISTRY

from app.infra import lifespan as resources
from app.infra.observability import background, log_writer
from app.infra.observability.background import detached, failing, in_background, in_thread
from app.infra.observability.diagnostics import watch_event_loop
from app.infra.observability.diagnostics.loop_watchdog import LoopWatchdog
from app.infra.observability.log_writer import LogWriter
from app.settings import Settings
from coherent_cache.channel import Channel
from coherent_cache.relay import Relay
from tests.application import RUN_RELAY, client_of, running

PATIENCE_SECONDS = 60.0
Work = Callable[..., Awaitable[None]]


@pytest.fixture(autouse=True)
async def short_pauses(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    monkeypatch.setattr(background, "MIN_PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(background, "MAX_PAUSE_SECONDS", 0.004)
    yield
    background._failed_at.clear()


def restarts(name: str) -> float:
    """Return how often a task was started again, according to the metrics."""
    return REGISTRY.get_sample_value("background_task_restarts_total", {"task": name}) or 0.0


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():
            await asyncio.sleep(0.001)


async def test_task_that_swallows_cancellations_does_not_block_the_shutdown() -> None:
    swallowed = 0

    async def stubborn() -> None:
        nonlocal swallowed
        while swallowed < 3:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(3_600)
            swallowed += 1

    async with in_background(stubborn, "stubborn"):
        await asyncio.sleep(0)
    assert swallowed == 3


async def test_cancellation_by_somebody_else_ends_the_task() -> None:
    started = asyncio.Event()

    async def rest() -> None:
        started.set()
        await asyncio.sleep(3_600)

    async with in_background(rest, "resting"):
        await started.wait()
        for task in asyncio.all_tasks():  # as `asyncio.run` does before it returns
            if task.get_coro().__qualname__ == "_supervise" and started.is_set():  # type: ignore[union-attr]
                task.cancel()


async def fail() -> None:
    raise ValueError


async def end() -> None:
    pass


async def wait_for_a_cancelled_future() -> None:
    future = asyncio.get_running_loop().create_future()
    future.cancel()
    await future


@pytest.mark.parametrize("ending", [fail, end, wait_for_a_cancelled_future])
async def test_task_that_ends_by_itself_is_restarted_counted_and_reported(
    ending: Callable[[], Awaitable[None]], caplog: pytest.LogCaptureFixture
) -> None:
    starts = 0

    async def work() -> None:
        nonlocal starts
        starts += 1
        if starts <= 3:
            await ending()
        else:
            await asyncio.sleep(3_600)

    before = restarts("weak")
    async with in_background(work, "weak"):
        assert failing() == []
        await until(lambda: starts == 4)
        assert failing() == ["weak"]
    assert failing() == []
    assert restarts("weak") - before == 3
    assert caplog.text.count("The background task weak ended by itself") == 3


async def test_pauses_grow_and_are_short_again_after_a_healthy_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    restarts_of_task = background._Restarts("weak")
    assert [restarts_of_task.record(None) for _ in range(4)] == [0.001, 0.002, 0.004, 0.004]
    monkeypatch.setattr(background, "HEALTHY_SECONDS", -1.0)
    assert restarts_of_task.record(None) == 0.001
    assert failing() == []


async def test_thread_that_fails_is_restarted_until_it_is_stopped() -> None:
    starts = 0
    ended = threading.Event()

    def work() -> None:
        nonlocal starts
        starts += 1
        raise ValueError

    before = restarts("weak thread")
    thread = in_thread(work, "weak thread", ended)
    await until(lambda: starts > 3)
    assert failing() == ["weak thread"]
    ended.set()
    thread.join(PATIENCE_SECONDS)
    assert not thread.is_alive()
    assert restarts("weak thread") - before == starts


async def test_detached_task_does_not_inherit_the_context() -> None:
    variable: ContextVar[str] = ContextVar("variable", default="nothing")

    async def read() -> str:
        return variable.get()

    variable.set("a request")
    assert await detached(read()) == "nothing"
    assert variable.get() == "a request"


def failing_once(work: Work, failed: list[str], name: str) -> Work:
    """Return a function that fails the first time it is called."""

    async def fail_first(*arguments: object) -> None:
        if name not in failed:
            failed.append(name)
            raise RuntimeError("This was raised on purpose.")
        await work(*arguments)

    return fail_first


async def test_each_task_of_the_service_survives_an_exception(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed: list[str] = []
    tasks = {
        "sampler": (resources, "sample"),
        "cache channel": (Channel, "_listen"),
        "cache relay": (Relay, "run"),
    }
    monkeypatch.setattr(Relay, "run", RUN_RELAY)
    for name, (owner, method) in tasks.items():
        monkeypatch.setattr(owner, method, failing_once(getattr(owner, method), failed, name))
    before = {name: restarts(name) for name in tasks}
    async with running(settings) as app, client_of(app) as client:
        await until(lambda: all(restarts(name) > before[name] for name in tasks))
        assert await names_in_readiness(client) == f"failing: {', '.join(sorted(tasks))}"
        await until(lambda: channel_is_live(app))


def channel_is_live(app: FastAPI) -> bool:
    live: bool = app.state.resources.cache.channel.is_live
    return live


async def names_in_readiness(client: httpx2.AsyncClient) -> str | None:
    response = await client.get("/readyz")
    assert response.status_code == 200
    named: str | None = response.json()["checks"].get("background tasks")
    return named


async def test_watchdog_continues_after_a_report_failed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail_to_report(self: LoopWatchdog, seconds: float) -> None:
        raise OSError

    monkeypatch.setattr(LoopWatchdog, "_report", fail_to_report)
    before = restarts("watchdog thread")
    with watch_event_loop(blocked_seconds=-1):
        await until(lambda: restarts("watchdog thread") > before + 1)


def test_log_writer_continues_after_a_failure(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    write = LogWriter._write
    failed = threading.Event()

    def fail_first(self: LogWriter, lines: bytes) -> None:
        if not failed.is_set():
            failed.set()
            raise MemoryError
        write(self, lines)

    monkeypatch.setattr(LogWriter, "_write", fail_first)
    writer = LogWriter(1)
    writer.write(b"the first\n")
    assert failed.wait(PATIENCE_SECONDS)
    writer.write(b"the second\n")
    while "the second" not in capfd.readouterr().out:
        pass
    writer.close()


def test_log_lines_wait_while_no_thread_can_be_started(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(log_writer, "CLOSE_SECONDS", PATIENCE_SECONDS)
    writer = LogWriter(1)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        writer.write(b"the first\n")
    writer.write(b"the second\n")
    writer.close()
    assert capfd.readouterr().out == "the first\nthe second\n"
