"""Work in other processes has limits, and the death of a process harms nobody."""

import asyncio
import os
import signal
import time
from contextlib import suppress

import pytest

from app.errors import Unavailable
from app.infra.process_pool import NICENESS, ProcessPool
from tests import work

MIB = 1024 * 1024


def pool(
    size: int = 1, *, queue: int = 100, queue_seconds: float = 60, seconds: float = 60
) -> ProcessPool:
    return ProcessPool(
        size, queue=queue, queue_seconds=queue_seconds, seconds=seconds, memory_bytes=256 * MIB
    )


async def test_function_runs_in_another_process_of_low_priority() -> None:
    process_id, niceness = await pool().run(work.identity)
    assert process_id != os.getpid()
    assert niceness == NICENESS


async def test_process_is_kept_for_the_next_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.infra.process_pool.WARM_AFTER_SECONDS", 0)
    processes = pool()
    await processes.warm(work.nothing)
    assert await processes.run(work.identity) == await processes.run(work.identity)


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
    with pytest.raises(Unavailable):
        await processes.run(work.die)
    assert await processes.run(work.double, 4) == 8


async def test_call_cannot_take_all_memory() -> None:
    processes = pool()
    with pytest.raises(MemoryError):
        await processes.run(work.take_memory, 400 * MIB)
    assert await processes.run(work.take_memory, 50 * MIB) == 50 * MIB
