"""500 clients listen to new comments. Some never read. Valkey restarts, and then all workers do."""

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import httpx2
import pytest

from tests.faults.conftest import Judge, Serve
from tests.faults.load import register
from tests.faults.postgres import Backend
from tests.faults.service import Service, master_of
from tests.faults.subscribers import Subscriber, stall, subscribed
from tests.faults.valkey import Valkey
from tests.faults.verdicts import GUARDED

pytestmark = pytest.mark.faults
READERS, STALLED = 450, 50
PAUSE_SECONDS, AWAY_SECONDS, PATIENCE_SECONDS = 0.15, 3.0, 60.0
LONG = "€" * 5_000  # 15 kB, so that the buffers of those who do not read are soon full
LISTENERS = re.compile(r"^event_stream_listeners (\d+)", re.MULTILINE)
NO_DEADLINE = "without a deadline for sending"


@asynccontextmanager
async def commenting(
    client: httpx2.AsyncClient, post: str, headers: dict[str, str]
) -> AsyncIterator[Callable[[], int]]:
    """Write comments until the block is left. Yield a function that returns their number."""
    written = 0

    async def write() -> None:
        nonlocal written
        while True:
            response = await client.post(f"{post}/comments", json={"body": LONG}, headers=headers)
            written += response.status_code == 201
            await asyncio.sleep(PAUSE_SECONDS)

    task = asyncio.create_task(write())
    try:
        yield lambda: written
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def listeners(service: Service) -> int:
    found = LISTENERS.search((await service.client.get("/metrics")).text)
    return int(found[1]) if found else 0


async def until_cut(service: Service) -> int:
    """Wait until only those who read have a place. Return how many have one."""
    deadline = asyncio.get_running_loop().time() + PATIENCE_SECONDS
    while (left := await listeners(service)) > READERS:
        if asyncio.get_running_loop().time() > deadline:
            break
        await asyncio.sleep(0.5)
    return left


async def until(condition: Callable[[], bool]) -> None:
    """Wait until the condition is true, or for as long as any client would."""
    deadline = asyncio.get_running_loop().time() + PATIENCE_SECONDS
    while not condition() and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(0.1)


def compare(readers: list[Subscriber], stored: list[int]) -> list[str]:
    """Return which readers do not have all comments, once and in their order."""
    lost = sum(bool(set(stored) - set(one.ids)) for one in readers)
    twice = sum(len(set(one.ids)) < len(one.ids) for one in readers)
    wrong = sum(one.ids != sorted(one.ids) for one in readers)
    return [
        f"{number} clients {problem}"
        for number, problem in (
            (lost, "missed comments"),
            (twice, "got a comment twice"),
            (wrong, "got comments in the wrong order"),
        )
        if number
    ]


@pytest.mark.parametrize("control", [GUARDED, "with messages from Valkey alone", NO_DEADLINE])
async def test_every_client_gets_every_comment_once(
    serve_cached: Serve, judge: Judge, backend: Backend, valkey: Valkey, control: str
) -> None:
    late = 3_600 if control == NO_DEADLINE else 1
    limits = {"events": {"per_client": 1_000, "send_seconds": late}}
    server = {"write_seconds": 3_600} if control == NO_DEADLINE else {}
    async with serve_cached(control, server=server, **limits) as service:
        _, headers = await register(service.client)
        created = await service.client.post(
            "/v1/posts", json={"title": "T", "body": "B"}, headers=headers
        )
        post = created.headers["location"]
        stream = f"{post}/comments/stream"
        stalled = [await stall(service.address, stream) for _ in range(STALLED)]
        async with subscribed(service.address, stream, READERS) as readers:
            async with commenting(service.client, post, headers) as written:
                await until(lambda: written() >= 20)
                valkey.kill()
                await asyncio.sleep(AWAY_SECONDS)
                valkey.start_again()
                before = written()
                await until(lambda: written() >= before + 20)
                left = await until_cut(service)
                old = await service.processes()
                os.kill(master_of(min(old)), signal.SIGHUP)
                await until(lambda: all(one.connections > 1 for one in readers))
                before = written()
                await until(lambda: written() >= before + 10)
            rows = await backend.rows("SELECT id FROM comments ORDER BY id")
            stored = [row["id"] for row in rows]
            await until(lambda: all(one.ids[-1:] == stored[-1:] for one in readers))
            broken = compare(readers, stored)
        for connection in stalled:
            connection.close()
    refused = {status for one in readers for status in one.statuses} - {200, 503}
    broken += [f"clients got status {refused}"] * bool(refused)
    broken += [f"{left} of {READERS + STALLED} places were taken"] * (left > READERS)
    broken += ["no client had to reconnect"] * (not all(one.connections > 1 for one in readers))
    figure = (
        f"{len(stored)} comments for {READERS} clients: each got each comment once; "
        f"{READERS + STALLED - left} of {STALLED} clients that did not read were cut"
    )
    judge(
        "500 clients listen to comments, 50 of them never read; Valkey and all workers restart",
        control,
        figure,
        broken,
    )
