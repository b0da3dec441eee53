"""Clients listen to new comments, and some never read. Valkey restarts, and workers are stopped."""

import asyncio
import os
import re
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest

from tests.faults.conftest import Judge, Serve
from tests.faults.load import late, register
from tests.faults.postgres import Backend
from tests.faults.service import WORKERS, Service, master_of
from tests.faults.subscribers import Subscriber, stall, subscribed
from tests.faults.troubles import CLOSED
from tests.faults.valkey import Valkey
from tests.faults.verdicts import GUARDED
from tests.faults.wire import Wire

pytestmark = pytest.mark.faults
READERS, STALLED = 450, 50
PAUSE_SECONDS, AWAY_SECONDS, PATIENCE_SECONDS = 0.15, 3.0, 60.0
LONG = "€" * 5_000  # 15 kB, so that the buffers of those who do not read are soon full
LISTENERS = re.compile(r"^event_stream_listeners (\d+)", re.MULTILINE)
NO_DEADLINE = "without a deadline for sending"
LISTENING, SILENT, WORK_SECONDS, MOST_SECONDS, POLITE_SECONDS = 5, 3, 5, 8.0, 1.0
# More than the buffers of a client that does not read take.
FILL = """
    INSERT INTO comments (post_id, author_id, body)
        SELECT max(id), max(author_id), repeat('€', 5000) FROM posts, generate_series(1, 600) i
        GROUP BY i
"""


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
    patience = 3_600 if control == NO_DEADLINE else 1
    limits = {"events": {"per_client": 1_000, "send_seconds": patience}}
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


@asynccontextmanager
async def listening(service: Service, stream: str) -> AsyncIterator[list[asyncio.Task[float]]]:
    """Open some streams. Each task returns when its stream ended properly."""

    async def listen(began: asyncio.Event) -> float:
        async with service.client.stream("GET", stream) as response:
            content = b""
            async for piece in response.aiter_bytes():
                content += piece
                began.set()
        assert content.endswith(b'event: end\ndata: {"reason":"shutdown"}\n\n')
        return time.monotonic()

    began = [asyncio.Event() for _ in range(LISTENING)]
    tasks = [asyncio.create_task(listen(event)) for event in began]
    await asyncio.gather(*(event.wait() for event in began))
    yield tasks


@pytest.mark.parametrize("control", [GUARDED, "without the shutdown event for streams"])
async def test_streams_end_when_the_instance_is_stopped(
    serve_cached: Serve,
    judge: Judge,
    backend: Backend,
    control: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The clients that do not read delay nothing, and the other requests are completed."""
    monkeypatch.setenv(CLOSED, str(tmp_path))
    async with serve_cached(control, trouble="notes") as service:
        _, headers = await register(service.client)
        created = await service.client.post(
            "/v1/posts", json={"title": "T", "body": "B"}, headers=headers
        )
        stream = f"{created.headers['location']}/comments/stream"
        await backend.rows(FILL)
        silent = [await stall(service.address, stream, last=0) for _ in range(SILENT)]
        async with listening(service, stream) as streams:
            master = master_of(min(await service.processes()))
            work = asyncio.create_task(Wire(service.address).get(f"/faults/sleep/{WORK_SECONDS}"))
            await asyncio.sleep(0.5)
            os.kill(master, signal.SIGTERM)
            told_at = time.monotonic()
            ends = await asyncio.gather(*streams, return_exceptions=True)
            status = (await work).status
            while Path(f"/proc/{master}").exists():
                await asyncio.sleep(0.05)
            over = time.monotonic() - told_at
        for connection in silent:
            connection.close()
    proper = [end - told_at for end in ends if isinstance(end, float)]
    closings = len(list(tmp_path.iterdir()))
    broken = late("streams ended", max(proper, default=0.0), POLITE_SECONDS)
    broken += [f"{LISTENING - len(proper)} streams were cut off"] * (len(proper) < LISTENING)
    broken += [f"a request of {WORK_SECONDS} s got {status}"] * (status != 200)
    broken += [f"{closings} of {WORKERS} workers closed their pools"] * (closings != WORKERS)
    broken += late("the last process exited", over, MOST_SECONDS)
    figure = (
        f"{len(proper)} of {LISTENING} streams ended with their last event, after "
        f"{max(proper, default=0.0):.2f} s; a request of {WORK_SECONDS} s got {status}; all "
        f"processes had exited after {over:.1f} s"
    )
    judge(
        f"SIGTERM during event streams, {SILENT} of whose clients do not read",
        control,
        figure,
        broken,
    )
