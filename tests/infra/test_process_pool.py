"""Calls in other processes have limits, and the death of a process harms nobody."""

import asyncio
import gc
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from app.errors import Unavailable
from app.infra.process_pool import ProcessPool
from tests import slow_import, work

MIB = 1024 * 1024
linux = pytest.mark.skipif(sys.platform != "linux", reason="The test reads /proc.")
# It prints the id of the process that a pool starts, and then kills that process.
RUN_AND_KILL = """
import asyncio, os, signal
from app.infra.process_pool import ProcessPool
from tests.work import identity

async def main():
    pool = ProcessPool(1, queue=1, queue_seconds=60, seconds=60, memory_bytes=256 * 2**20)
    process_id, _ = await pool.run(identity)
    os.kill(process_id, signal.SIGKILL)
    print(process_id)

asyncio.run(main())
"""

# In it, the first process ends before it is ready. Only uvloop, which runs the service, then
# raises ProcessLookupError.
RUN_AFTER_A_DEATH = """
import sys
import uvloop
from anyio import to_process
from app.infra.process_pool import ProcessPool
from tests.work import double

start = to_process.open_process

async def start_and_end(_command, **options):
    to_process.open_process = start
    process = await start([sys.executable, "-c", ""], **options)
    await process.wait()
    return process

async def main():
    to_process.open_process = start_and_end
    pool = ProcessPool(1, queue=1, queue_seconds=60, seconds=60, memory_bytes=256 * 2**20)
    print(await pool.run(double, 4))

uvloop.run(main())
"""

COUNT = """
import asyncio
from tests.infra.test_process_pool import count_calls_and_refusals

asyncio.run(count_calls_and_refusals())
"""


def pool(
    size: int = 1, *, queue: int = 100, queue_seconds: float = 60, seconds: float = 60
) -> ProcessPool:
    return ProcessPool(
        size, queue=queue, queue_seconds=queue_seconds, seconds=seconds, memory_bytes=256 * MIB
    )


def metric(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0


async def test_process_is_kept_for_the_next_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.infra.process_pool.WARM_AFTER_SECONDS", 0)
    processes = pool()
    await processes.warm(work.nothing)
    assert await processes.run(work.identity) == await processes.run(work.identity)


async def test_process_for_the_first_call_takes_no_place_while_the_service_starts() -> None:
    processes = pool(queue=0)
    warming = asyncio.create_task(processes.warm(work.nothing))
    await asyncio.sleep(0)
    assert await processes.run(work.double, 4) == 8
    warming.cancel()
    with suppress(asyncio.CancelledError):
        await warming


async def test_error_of_the_function_is_raised() -> None:
    with pytest.raises(KeyError, match="on purpose"):
        await pool().run(work.fail, "This was raised on purpose.")


async def test_call_that_takes_too_long_is_killed() -> None:
    processes = pool(seconds=1)
    with pytest.raises(Unavailable, match="too long"):
        await processes.run(time.sleep, 3_600)
    assert await pool().run(work.double, 4) == 8


async def test_call_is_killed_with_the_request_that_waits_for_it() -> None:
    processes = pool()
    process_id, _ = await processes.run(work.identity)
    call = asyncio.create_task(processes.run(time.sleep, 3_600))
    await asyncio.sleep(0.1)
    call.cancel()
    with suppress(asyncio.CancelledError):
        await call
    with pytest.raises(ProcessLookupError):
        os.kill(process_id, 0)
    assert await processes.run(work.double, 4) == 8


async def test_call_beyond_the_queue_is_refused_at_once() -> None:
    processes = pool(queue=2)
    calls = [asyncio.create_task(processes.run(work.double, number)) for number in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(Unavailable, match="Too many"):
        await processes.run(work.double, 4)
    assert await asyncio.gather(*calls) == [0, 2, 4]


def test_calls_and_refusals_are_counted() -> None:
    """In another process, because the application of the tests starts a process at some time."""
    subprocess.run([sys.executable, "-c", COUNT], check=True)


async def count_calls_and_refusals() -> None:
    before = metric("http_requests_refused_total", limit="process_pool")
    running = metric("process_pool_calls")
    processes = pool(queue=1)
    calls = [asyncio.create_task(processes.run(work.double, number)) for number in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(Unavailable):
        await processes.run(work.double, 4)
    assert metric("http_requests_refused_total", limit="process_pool") == before + 1
    assert metric("process_pool_calls") == running + 2
    calls.append(asyncio.create_task(pool().run(work.double, 5)))  # a second pool
    await asyncio.sleep(0)
    assert metric("process_pool_calls") == running + 3
    await asyncio.gather(*calls)
    assert metric("process_pool_calls") == running


async def test_call_that_waits_too_long_is_refused() -> None:
    processes = pool(queue_seconds=0.1)
    running = asyncio.create_task(processes.run(time.sleep, 1))
    await asyncio.sleep(0)
    with pytest.raises(Unavailable, match="Too many"):
        await processes.run(work.double, 4)
    await running


async def test_process_that_is_killed_while_it_is_idle_harms_no_call() -> None:
    processes = pool()
    process_id, _ = await processes.run(work.identity)
    os.kill(process_id, signal.SIGKILL)
    assert await processes.run(work.double, 4) == 8


async def test_call_whose_process_is_killed_runs_again() -> None:
    processes = pool()
    process_id, _ = await processes.run(work.identity)
    call = asyncio.create_task(processes.run(work.double_later, 4))
    await asyncio.sleep(0.2)
    os.kill(process_id, signal.SIGKILL)
    assert await call == 8


async def test_call_that_kills_each_process_is_given_up() -> None:
    processes = pool()
    with pytest.raises(Unavailable, match="was killed"):
        await processes.run(work.die)
    assert await processes.run(work.double, 4) == 8


def test_call_whose_process_dies_while_it_starts_gets_another() -> None:
    command = [sys.executable, "-c", RUN_AFTER_A_DEATH]
    assert subprocess.check_output(command, encoding="utf-8").strip() == "8"


def test_killed_process_leaves_no_metrics(tmp_path: Path) -> None:
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    command = [sys.executable, "-c", RUN_AND_KILL]
    process_id = subprocess.check_output(command, env=environment, encoding="utf-8").strip()
    names = [path.name for path in tmp_path.iterdir()]
    assert names  # of the parent
    assert not [name for name in names if name.endswith(f"_{process_id}.db")]


async def kill_idle() -> None:
    """End the processes that other tests have started."""
    while children():
        with suppress(Unavailable):
            await pool().run(work.die)


def children() -> list[int]:
    """Return the processes of the pools of this process."""
    own = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parent = int((path / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
            if parent == os.getpid() and "anyio.to_process" in (path / "cmdline").read_text(
                encoding="utf-8"
            ):
                own.append(int(path.name))
    return own


@linux
async def test_process_that_cannot_be_started_is_unavailable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """This is what the system raises at a limit on processes."""

    async def refuse(*_: object, **__: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    await kill_idle()
    with monkeypatch.context() as patch:
        patch.setattr("anyio.to_process.open_process", refuse)
        with pytest.raises(Unavailable, match="could not be started"):
            await pool().run(work.double, 4)
    assert await pool().run(work.double, 4) == 8


@linux
async def test_start_that_fails_after_its_call_was_cancelled_logs_no_lost_error(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    starts, fails = asyncio.Event(), asyncio.Event()

    async def refuse(*_: object, **__: object) -> None:
        starts.set()
        await fails.wait()
        raise BlockingIOError(11, "Resource temporarily unavailable")

    await kill_idle()
    monkeypatch.setattr("anyio.to_process.open_process", refuse)
    call = asyncio.create_task(pool().run(work.double, 4))
    await starts.wait()
    call.cancel()
    with suppress(asyncio.CancelledError):
        await call
    fails.set()
    with pytest.raises(Unavailable, match="could not be started"):  # it waits for the first start
        await pool().run(work.double, 4)
    gc.collect()
    assert "never retrieved" not in caplog.text


@linux
async def test_process_that_does_not_end_its_start_is_killed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Otherwise all later calls would wait for it. Here, an import hangs."""
    await kill_idle()
    with monkeypatch.context() as patch:
        patch.setenv("TEST_IMPORT_SECONDS", "3600")
        patch.setattr("app.infra.process_pool.START_SECONDS", 5)
        with pytest.raises(Unavailable, match="could not be started"):
            await pool().run(slow_import.double, 4)
    assert "No process could be started: it took more than 5 s" in caplog.text
    assert children() == []
    assert await pool().run(work.double, 4) == 8


@linux
async def test_call_that_is_cancelled_while_its_process_starts_leaks_none() -> None:
    """The process that was started is kept, and runs the next call."""
    await kill_idle()
    processes = pool(3)
    for pause in (0, 0.01, 0.03, 0.1):
        calls = [asyncio.create_task(processes.run(time.sleep, 3_600)) for _ in "123"]
        await asyncio.sleep(pause)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
    process_id, _ = await processes.run(work.identity)
    assert children() == [process_id]


@linux
async def test_start_of_a_process_does_not_count_as_time_of_the_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A process imports the module of the function when it starts."""
    await kill_idle()
    monkeypatch.setenv("TEST_IMPORT_SECONDS", "5")
    assert await pool(seconds=3).run(slow_import.double, 4) == 8
