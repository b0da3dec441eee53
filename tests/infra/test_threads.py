"""Blocking functions run in threads, whose number and whose queue are limited and measured."""

import asyncio
import gc
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from anyio.to_thread import current_default_thread_limiter, run_sync
from prometheus_client import REGISTRY

from app.errors import Unavailable
from app.infra.threads import BoundedThreads, measure_default_threads


@contextmanager
def opened(queue_seconds: float = 60) -> Iterator[BoundedThreads]:
    """Open one thread, with a queue of two."""
    threads = BoundedThreads(
        "test", threads=1, queue=2, queue_seconds=queue_seconds, busy="Try again."
    )
    try:
        yield threads
    finally:
        threads.close()


def gauges(pool: str, measure: Callable[[], None]) -> tuple[float | None, float | None]:
    """Return how many threads are busy, and how many calls wait."""
    measure()
    busy, waiting = (
        REGISTRY.get_sample_value("threads", {"pool": pool, "state": state})
        for state in ("busy", "waiting")
    )
    return busy, waiting


async def begun(event: threading.Event) -> None:
    async with asyncio.timeout(60):
        while not event.is_set():
            await asyncio.sleep(0.01)


class Work:
    """A function that blocks until `ends` is set."""

    def __init__(self) -> None:
        self.has_begun, self.ends = threading.Event(), threading.Event()

    def __call__(self, result: int = 0) -> int:
        self.has_begun.set()
        self.ends.wait(60)
        return result


async def test_calls_beyond_the_queue_are_refused_and_all_are_measured() -> None:
    work = Work()
    with opened() as threads:
        calls = [asyncio.create_task(threads.run(work, number)) for number in range(3)]
        await begun(work.has_begun)
        assert gauges("test", threads.measure) == (1, 2)
        with pytest.raises(Unavailable, match="Try again"):
            await threads.run(work)
        work.ends.set()
        assert await asyncio.gather(*calls) == [0, 1, 2]
        assert gauges("test", threads.measure) == (0, 0)
        assert await threads.run(work, 7) == 7


async def test_error_of_the_function_is_raised() -> None:
    with opened() as threads, pytest.raises(ValueError, match="invalid literal"):
        await threads.run(int, "x")


async def test_call_that_waits_too_long_is_refused_and_never_runs() -> None:
    work, ran = Work(), list[bool]()
    with opened(queue_seconds=0.05) as threads:
        call = asyncio.create_task(threads.run(work, 7))
        await begun(work.has_begun)
        with pytest.raises(Unavailable):
            await threads.run(lambda: ran.append(True))
        work.ends.set()
        assert await call == 7  # a function that has started is awaited
        assert not ran


async def test_cancelled_call_keeps_its_thread_and_leaves_the_queue() -> None:
    work = Work()
    with opened() as threads:
        calls = [asyncio.create_task(threads.run(work)) for _ in range(3)]
        await begun(work.has_begun)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        assert gauges("test", threads.measure) == (1, 0)
        work.ends.set()
        assert await threads.run(int, "7") == 7


async def test_calls_that_wait_are_refused_when_the_threads_close() -> None:
    work = Work()
    with opened(queue_seconds=3600) as threads:
        call = asyncio.create_task(threads.run(work, 7))
        await begun(work.has_begun)
        waiting = asyncio.create_task(threads.run(work))
        await asyncio.sleep(0)
        threads.close()
        async with asyncio.timeout(30):
            with pytest.raises(Unavailable):
                await waiting
        work.ends.set()
        assert await call == 7


async def test_function_that_fails_after_its_call_was_cancelled_logs_no_lost_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    begins, ends = threading.Event(), threading.Event()

    def fail() -> None:
        begins.set()
        ends.wait(60)
        raise ValueError

    with opened() as threads:
        call = asyncio.create_task(threads.run(fail))
        await begun(begins)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        del call  # its traceback refers to the future whose error asyncio might log
        ends.set()
        await threads.run(int)
        await asyncio.sleep(0)
    gc.collect()
    assert "never retrieved" not in caplog.text


async def test_default_threads_are_measured() -> None:
    work, limiter = Work(), current_default_thread_limiter()
    before, limiter.total_tokens = limiter.total_tokens, 1
    try:
        calls = [asyncio.create_task(run_sync(work)) for _ in range(3)]
        await begun(work.has_begun)
        assert gauges("default", measure_default_threads) == (1, 2)
        work.ends.set()
        await asyncio.gather(*calls)
        assert gauges("default", measure_default_threads) == (0, 0)
    finally:
        work.ends.set()
        limiter.total_tokens = before
