"""An answer that has arrived is in time, however late a busy process comes to read it."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator

import pytest

from app.infra.cache.overdue import Overdue

Pair = tuple[asyncio.StreamReader, socket.socket]


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    """What this process reads, and the far end."""
    near, far = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=near)
    yield reader, far
    writer.close()
    far.close()


async def read_and_cancel(reader: asyncio.StreamReader, overdue: Overdue) -> bytes:
    """Read as a client does: in a task of its own, behind another that waits for it."""
    data = await asyncio.create_task(reader.read(100))
    overdue.cancel()
    return data


async def test_an_answer_that_waits_for_a_busy_process_is_in_time(pair: Pair) -> None:
    reader, far = pair
    called: list[bool] = []
    for _ in range(50):
        overdue = Overdue(0.001, lambda: called.append(True))
        reading = asyncio.create_task(read_and_cancel(reader, overdue))
        await asyncio.sleep(0)
        far.send(b"answer")
        time.sleep(0.003)  # noqa: ASYNC251 - this process is busy
        assert await reading == b"answer"
    await asyncio.sleep(0.01)
    assert not called


async def test_an_answer_that_does_not_come_is_overdue(pair: Pair) -> None:
    reader, far = pair
    called = asyncio.Event()
    overdue = Overdue(0.001, called.set)
    reading = asyncio.create_task(read_and_cancel(reader, overdue))
    async with asyncio.timeout(20):
        await called.wait()
    far.send(b"late")
    assert await reading == b"late"
