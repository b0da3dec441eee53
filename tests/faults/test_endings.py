"""The service shuts down: running requests are completed, and endless streams are ended."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest

from tests.faults.conftest import Judge, Serve
from tests.faults.load import NO_ANSWER, late
from tests.faults.service import WORKER_CLASSES, WORKERS, Service, master_of
from tests.faults.troubles import CLOSED
from tests.faults.verdicts import GUARDED
from tests.faults.wire import Wire

pytestmark = pytest.mark.faults
STREAMS, POLITE_SECONDS = 5, 1.0
DRAIN_SECONDS, UNREADY_SECONDS = 3, 0.5
TRIES = 20


async def watch(service: Service, began: asyncio.Event) -> tuple[float, bool]:
    """Read an endless stream. Return when it ended, and whether it ended properly."""
    try:
        async with service.client.stream("GET", "/test/stream") as response:
            async for _ in response.aiter_bytes():
                began.set()
    except httpx2.HTTPError:
        return time.monotonic(), False
    return time.monotonic(), True


@asynccontextmanager
async def watching(service: Service) -> AsyncIterator[list[asyncio.Task[tuple[float, bool]]]]:
    """Open some streams, and wait until each has begun."""
    began = [asyncio.Event() for _ in range(STREAMS)]
    tasks = [asyncio.create_task(watch(service, event)) for event in began]
    await asyncio.gather(*(event.wait() for event in began))
    yield tasks


@pytest.mark.parametrize("control", [GUARDED, "without the shutdown event for streams"])
async def test_streams_end_and_running_requests_are_completed(
    serve: Serve,
    judge: Judge,
    control: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(CLOSED, str(tmp_path))
    async with serve(control, trouble="notes") as service, watching(service) as streams:
        master = master_of(min(await service.processes()))
        work = asyncio.create_task(Wire(service.address).get("/faults/sleep/5"))
        long = asyncio.create_task(service.client.get("/faults/stream/4"))
        await asyncio.sleep(0.5)
        told_at = time.monotonic()
        os.kill(master, signal.SIGTERM)
        ends = await asyncio.gather(*streams)
        last = max(ended_at for ended_at, _ in ends) - told_at
        status, length = (await work).status, len((await long).content)
        while Path(f"/proc/{master}").exists():
            await asyncio.sleep(0.05)
        over = time.monotonic() - told_at
    closings = len(list(tmp_path.iterdir()))
    cut = sum(not told for _, told in ends)
    broken = late("endless streams ended", last, POLITE_SECONDS)
    broken += [f"{cut} streams were cut off"] * bool(cut)
    broken += [f"a request of 5 s: status {status}"] * (status != 200)
    broken += [f"a stream of 4 s ended after {length} of 40 pieces"] * (length != 40)
    broken += [f"{closings} of {WORKERS} workers closed their pools"] * (closings != WORKERS)
    figure = (
        f"endless streams ended after {last:.2f} s, a request of 5 s got status {status}, "
        f"{closings} of {WORKERS} workers closed their pools, all processes had exited after "
        f"{over:.1f} s"
    )
    judge("SIGTERM during streams and long requests", control, figure, broken)


async def ask(service: Service, path: str) -> int:
    """Send a request on a new connection."""
    wire = Wire(service.address)
    status = (await wire.get(path)).status
    wire.close()
    return status


@pytest.mark.parametrize("control", WORKER_CLASSES)
async def test_readiness_fails_before_the_listener_closes(
    serve: Serve, judge: Judge, control: str
) -> None:
    server = {"drain_seconds": DRAIN_SECONDS, "graceful_timeout_seconds": 20}
    async with serve(control, server=server, worker_class=WORKER_CLASSES[control]) as service:
        os.kill(master_of(min(await service.processes())), signal.SIGTERM)
        told_at, unready_at, lost = time.monotonic(), float("inf"), 0
        while (ready := await ask(service, "/readyz")) != NO_ANSWER:
            if ready == 503:
                unready_at = min(unready_at, time.monotonic())
            lost += await ask(service, "/livez") != 200
            await asyncio.sleep(0.02)
        closed_at = time.monotonic()
    notice = closed_at - unready_at
    broken = late("`/readyz` failed", unready_at - told_at, UNREADY_SECONDS)
    if unready_at == float("inf"):
        broken = ["`/readyz` never failed"]
    broken += [f"connections were refused {notice:.1f} s after `/readyz` failed"] * (
        notice < DRAIN_SECONDS - UNREADY_SECONDS
    )
    # The last probe may arrive during the close.
    broken += [f"`/livez` failed {lost} ×"] * (lost > 1)
    figure = (
        f"`/readyz` failed after {unready_at - told_at:.2f} s, connections were refused after "
        f"{closed_at - told_at:.1f} s"
    )
    judge("SIGTERM, as a load balancer sees it", control, figure, broken)


async def test_a_second_signal_ends_it_at_once(serve: Serve, judge: Judge) -> None:
    seconds: dict[str, float] = {}
    for control, signals in ((GUARDED, 2), ("with only one SIGTERM", 1)):
        async with serve(control) as service:
            master = master_of(min(await service.processes()))
            work = asyncio.create_task(Wire(service.address).get("/faults/sleep/6"))
            await asyncio.sleep(0.3)
            for _ in range(signals):
                os.kill(master, signal.SIGTERM)
                await asyncio.sleep(0.5)
            told_at = time.monotonic()
            while Path(f"/proc/{master}").exists():
                await asyncio.sleep(0.05)
            seconds[control] = time.monotonic() - told_at
            await work
    for control, over in seconds.items():
        figure = f"all processes had exited {over:.1f} s after the last signal"
        judge("A second SIGTERM", control, figure, late("the last process exited", over, 3.0))


@pytest.mark.parametrize("control", [GUARDED, "without the middleware for unexpected exceptions"])
async def test_a_connection_outlives_an_unhandled_exception(
    serve: Serve, judge: Judge, control: str
) -> None:
    good = 0
    async with serve(control) as service:
        for _ in range(TRIES):
            reader, writer = await asyncio.open_connection(
                service.address.host, service.address.port
            )
            statuses = []
            for path in ("/faults/fail", "/livez"):
                writer.write(f"GET {path} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
                statuses.append(await status_of(reader))
            writer.close()
            good += statuses == [500, 200]
    figure = f"{good} of {TRIES} connections stayed usable after status 500"
    broken = [figure] * (good != TRIES)
    judge("A route raises an unexpected exception", control, figure, broken)


async def status_of(reader: asyncio.StreamReader) -> int:
    """Read a complete response, and return its status."""
    try:
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
        length = next(
            int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"content-length:")
        )
        await reader.readexactly(length)
    except (OSError, EOFError):
        return NO_ANSWER
    return int(head[9:12])
