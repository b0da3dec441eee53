"""An answer that has arrived is in time, even if a busy process reads it late."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from coherent_cache.budget import Budget, OverdueTimer
from tests.coherent_cache.worker import CONFIG, eventually

Pair = tuple[asyncio.StreamReader, socket.socket]


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    """A reader in this process, and the socket at the other end."""
    near, far = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=near)
    yield reader, far
    writer.close()
    far.close()


async def read_and_cancel(reader: asyncio.StreamReader, overdue: OverdueTimer) -> bytes:
    """Read as a client does: in a task of its own, which the calling task awaits."""
    data = await asyncio.create_task(reader.read(100))
    overdue.cancel()
    return data


async def test_answer_that_a_busy_process_reads_late_is_not_overdue(pair: Pair) -> None:
    reader, far = pair
    called: list[bool] = []
    for _ in range(50):
        overdue = OverdueTimer(0.001, lambda: called.append(True))
        reading = asyncio.create_task(read_and_cancel(reader, overdue))
        await asyncio.sleep(0)
        far.send(b"answer")
        time.sleep(0.003)  # noqa: ASYNC251 - the event loop is blocked on purpose
        assert await reading == b"answer"
    await asyncio.sleep(0.01)
    assert not called


async def test_answer_that_does_not_arrive_is_overdue(pair: Pair) -> None:
    reader, far = pair
    called = asyncio.Event()
    overdue = OverdueTimer(0.001, called.set)
    reading = asyncio.create_task(read_and_cancel(reader, overdue))
    async with asyncio.timeout(20):
        await called.wait()
    far.send(b"late")
    assert await reading == b"late"


async def test_slow_answer_that_a_busy_process_reads_late_is_within_the_budget(pair: Pair) -> None:
    reader, far = pair
    budget = Budget(replace(CONFIG, slow_seconds=0.001, timeout_seconds=1))
    step = asyncio.create_task(budget.cache_step(reader.read(100)))
    await eventually(lambda: budget.is_cache_slow)
    far.send(b"answer")
    time.sleep(1.1)  # noqa: ASYNC251 - the event loop is blocked on purpose
    assert await step == b"answer"


async def test_all_steps_of_a_read_share_one_budget(pair: Pair) -> None:
    reader, _ = pair
    budget = Budget(replace(CONFIG, slow_seconds=0.001, timeout_seconds=0.01))
    for _ in range(2):
        with pytest.raises(TimeoutError):
            await budget.cache_step(reader.read(100))
