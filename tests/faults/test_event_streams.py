"""Clients listen to new comments, and some never read. Valkey restarts, and workers are stopped."""

import asyncio
import os
import re
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.faults.author import sign_up
from tests.faults.conftest import Judge, Serve
from tests.faults.history import repeated
from tests.faults.load import late
from tests.faults.postgres import Backend
from tests.faults.service import WORKERS, Service, master_of
from tests.faults.subscribers import Audience, commenting, stall, subscribed, until
from tests.faults.troubles import CLOSED
from tests.faults.valkey import Valkey
from tests.faults.verdicts import GUARDED
from tests.faults.wire import Wire

pytestmark = pytest.mark.faults
READERS, STALLED = 450, 50
AWAY_SECONDS, PATIENCE_SECONDS, CONTROL_SECONDS = 3.0, 60.0, 15.0
LISTENERS = re.compile(r"^event_stream_listeners (\d+)", re.MULTILINE)
MESSAGES_ALONE = "with messages from Valkey alone"
NO_DEADLINE = "without a deadline for sending"
CUT, CUT_SECONDS = ("CLIENT", "KILL", "TYPE", "pubsub"), 0.3
LISTENING, SILENT, WORK_SECONDS, MOST_SECONDS, POLITE_SECONDS = 5, 3, 5, 8.0, 1.0
# More bytes than fit into the buffers of a client that does not read. The clients that never read
# begin with these comments, so they are soon stuck, however fast new comments are written.
FILL = """
    INSERT INTO comments (post_id, author_id, body)
        SELECT max(id), max(author_id), repeat('€', 5000) FROM posts, generate_series(1, 600) i
        GROUP BY i
"""


async def listeners(service: Service) -> int:
    found = LISTENERS.search((await service.client.get("/metrics")).text)
    return int(found[1]) if found else 0


async def until_cut(service: Service, patience: float) -> int:
    """Wait until only those who read have a place. Return how many have one."""
    deadline = asyncio.get_running_loop().time() + patience
    while (left := await listeners(service)) > READERS:
        if asyncio.get_running_loop().time() > deadline:
            break
        await asyncio.sleep(0.5)
    return left


@pytest.mark.parametrize("control", [GUARDED, MESSAGES_ALONE, NO_DEADLINE])
async def test_every_client_gets_every_comment_once(
    serve_cached: Serve, judge: Judge, backend: Backend, valkey: Valkey, control: str
) -> None:
    """No comment follows those during which something fails, so nothing else can repair a loss."""
    seconds = 3_600 if control == NO_DEADLINE else 1
    limits = {"events": {"per_client": 1_000, "send_seconds": seconds}}
    server = {"write_seconds": 3_600} if control == NO_DEADLINE else {}
    patience = PATIENCE_SECONDS if control == GUARDED else CONTROL_SECONDS
    async with serve_cached(control, server=server, **limits) as service:
        author = await sign_up(service.client)
        stream = f"{author.post}/comments/stream"
        await backend.rows(FILL)
        async with subscribed(service.address, stream, READERS) as readers:
            audience = Audience(readers, backend, patience)
            stalled = [await stall(service.address, stream, last=0) for _ in range(STALLED)]
            async with commenting(service.client, author.post, author.headers) as written:
                await until(lambda: written() >= 20)
                valkey.kill()
                await asyncio.sleep(AWAY_SECONDS)
            broken = await audience.compare("while Valkey was away")
            valkey.start_again()
            await valkey.returned()
            async with (
                commenting(service.client, author.post, author.headers) as written,
                repeated(partial(valkey.ask, *CUT), CUT_SECONDS),
            ):
                await until(lambda: written() >= 20)
            broken += await audience.compare("when their worker had lost its connection to Valkey")
            left = await until_cut(service, patience)
            async with commenting(service.client, author.post, author.headers) as written:
                os.kill(master_of(min(await service.processes())), signal.SIGHUP)
                await until(lambda: all(one.connections > 1 for one in readers))
                before = written()
                await until(lambda: written() >= before + 10)
            broken += await audience.compare("when their worker had been replaced")
        for connection in stalled:
            connection.close()
    broken += audience.refused()
    broken += [f"{left} of {READERS + STALLED} places were taken"] * (left > READERS)
    broken += ["no client had to reconnect"] * (not all(one.connections > 1 for one in readers))
    figure = (
        f"{len(audience.stored)} comments for {READERS} clients: each got each comment once; "
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
        stream = f"{(await sign_up(service.client)).post}/comments/stream"
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
