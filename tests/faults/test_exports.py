"""Clients abort exports or read them slowly, PostgreSQL is killed, and the instance is stopped."""

import asyncio
import os
import signal
import socket
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import httpx2
import pytest

from tests.exports import lines_of
from tests.faults.conftest import Judge, Serve
from tests.faults.load import late, register
from tests.faults.postgres import Backend
from tests.faults.service import GRACEFUL_TIMEOUT_SECONDS, Service, master_of
from tests.faults.verdicts import GUARDED
from tests.faults.wire import Wire

pytestmark = pytest.mark.faults
POSTS, ABORTED, READERS = 30_000, 100, 4
EXPORT = "/v1/posts/export"
WHOLE_SECONDS, PATIENCE_SECONDS, TOLD_SECONDS = 5.0, 30.0, 0.3
STALL_SECONDS, PAUSE_SECONDS, SLOW_PAUSE_SECONDS = 5.0, 0.002, 0.2
LIMITS = {"exports": READERS}  # all readers may meet at one worker
IDENTITY = {"Accept-Encoding": "identity"}
# So little that the service notices at once that a client reads slowly.
RECEIVE_BUFFER = [(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)]
FILL = f"""
    INSERT INTO posts (author_id, title, body, created_at)
        SELECT (SELECT min(id) FROM users), i, repeat('long ', 100), now() + i * interval '1 ms'
        FROM generate_series(1, {POSTS}) i
"""
HELD = """
    SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = current_database()
        AND state <> 'idle' AND query LIKE '%posts%'
"""

Headers = dict[str, str]


@dataclass
class Download:
    """What a client has received, and whether the response was complete."""

    headers: Headers
    body: bytearray = field(default_factory=bytearray)
    is_complete: bool = False


async def download(service: Service, found: Download, *, pause: float = 0.0) -> None:
    """Read an export, after the last complete line of what was received before."""
    del found.body[found.body.rfind(b"\n") + 1 :]
    cursor = {"cursor": lines_of(found.body)[-1]["cursor"]} if found.body else {}
    try:
        async with reader(service, found.headers, cursor) as pieces:
            async for piece in pieces:
                found.body += piece
                await asyncio.sleep(pause)
            found.is_complete = True
    except httpx2.HTTPError:
        pass


@dataclass
class Downloads:
    """The exports that run when something breaks. Those that are `cut` can be resumed."""

    found: list[Download]
    tasks: list[asyncio.Task[None]]

    @property
    def cut(self) -> list[Download]:
        return [one for one in self.found if not one.is_complete]

    async def ended(self) -> None:
        await asyncio.gather(*self.tasks)

    async def resume(self, service: Service) -> None:
        for one in self.cut:
            await download(service, one)


async def start(service: Service, backend: Backend, *, slow: int = 0) -> Downloads:
    """Let all readers begin. The last ones are slow."""
    found = [Download(headers) for headers in await fill(service, backend)]
    pauses = [PAUSE_SECONDS] * (READERS - slow) + [SLOW_PAUSE_SECONDS] * slow
    tasks = [
        asyncio.create_task(download(service, one, pause=pause))
        for one, pause in zip(found, pauses, strict=True)
    ]
    while not all(one.body for one in found):
        await asyncio.sleep(0.01)
    return Downloads(found, tasks)


@asynccontextmanager
async def reader(
    service: Service, headers: Headers, query: dict[str, str] | None = None
) -> AsyncIterator[AsyncIterator[bytes]]:
    """Open an export on a connection of its own."""
    transport = httpx2.AsyncHTTPTransport(socket_options=RECEIVE_BUFFER)
    url = service.address.url + EXPORT
    async with (
        httpx2.AsyncClient(transport=transport, timeout=PATIENCE_SECONDS) as client,
        client.stream("GET", url, params=query, headers=headers | IDENTITY) as response,
    ):
        response.raise_for_status()
        yield response.aiter_bytes(65_536)


async def fill(service: Service, backend: Backend) -> list[Headers]:
    """Make posts, and an account for each reader."""
    accounts = [(await register(service.client))[1] for _ in range(READERS)]
    await backend.rows("TRUNCATE posts CASCADE")
    await backend.rows(FILL)
    return accounts


async def held_by_stalled_readers(
    service: Service, backend: Backend, accounts: list[Headers]
) -> int:
    """Return how many connections are held once all buffers of the sockets are full."""
    async with AsyncExitStack() as stack:
        stalled = [
            await stack.enter_async_context(reader(service, headers)) for headers in accounts
        ]
        for pieces in stalled:
            await anext(pieces)
        held, until = len(accounts), time.monotonic() + STALL_SECONDS
        while held and time.monotonic() < until:
            held = min(held, len(await backend.rows(HELD)))
            await asyncio.sleep(0.1)
    return held


async def seconds_until_exited(process_id: int) -> float:
    started = time.monotonic()
    while Path(f"/proc/{process_id}").exists():
        await asyncio.sleep(0.05)
    return time.monotonic() - started


def differs(found: Download) -> list[str]:
    titles = [int(line["title"]) for line in lines_of(found.body)]
    return ["posts lost or repeated"] * (titles != list(range(1, POSTS + 1)))


@pytest.mark.parametrize("control", [GUARDED, "with exports in one transaction"])
async def test_exports_that_are_aborted(
    serve: Serve, backend: Backend, judge: Judge, control: str
) -> None:
    random = Random(5)
    async with serve(control, limits=LIMITS) as service:
        accounts = await fill(service, backend)

        held = await held_by_stalled_readers(service, backend, accounts)

        async def abort(headers: Headers) -> None:
            remaining = random.randrange(5_000_000)
            async with reader(service, headers) as pieces:
                while remaining > 0 and (piece := await anext(pieces, b"")):
                    remaining -= len(piece)

        for _ in range(ABORTED // READERS):
            await asyncio.gather(*map(abort, accounts))
        whole = await service.until_whole(WHOLE_SECONDS + 1)
        broken = [f"{READERS} readers that stalled held {held} connections"] * bool(held)
        broken += late("the pools were whole", whole, WHOLE_SECONDS)
        broken += await backend.idle_in_transaction()
    figure = (
        f"{READERS} readers that stalled held {held} connections; the pools were whole "
        f"{whole:.1f} s after {ABORTED} aborted exports"
    )
    judge("Clients abort exports, or do not read them", control, figure, broken)


@pytest.mark.parametrize("control", [GUARDED, "with exports that end quietly"])
async def test_postgres_is_killed_during_exports(
    serve: Serve, backend: Backend, judge: Judge, control: str
) -> None:
    async with serve(control, limits=LIMITS) as service:
        downloads = await start(service, backend)
        backend.kill()
        await downloads.ended()
        cut = downloads.cut
        backend.start_again()
        await backend.returned()
        await downloads.resume(service)
    broken = [reason for one in downloads.found for reason in differs(one)]
    broken += ["a resumed export was cut off"] * bool(downloads.cut)
    broken += ["no export was running"] * (not cut and control == GUARDED)
    figure = f"{len(cut)} exports visibly incomplete; resumed, each had all {POSTS:,} posts once"
    judge("PostgreSQL is killed during exports", control, figure, broken)


@pytest.mark.parametrize("control", [GUARDED, "without the shutdown event for streams"])
async def test_an_instance_with_exports_is_stopped(
    serve: Serve, backend: Backend, judge: Judge, control: str
) -> None:
    """One client reads so slowly that the grace period is over before it has everything."""
    async with serve(control, limits=LIMITS) as service:
        _, late_comer = await register(service.client)
        downloads = await start(service, backend, slow=1)
        connection = Wire(service.address)
        await connection.get("/livez")
        master = master_of(min(await service.processes()))
        os.kill(master, signal.SIGTERM)
        exiting = asyncio.create_task(seconds_until_exited(master))
        await asyncio.sleep(TOLD_SECONDS)
        refused = await connection.write("GET", EXPORT, late_comer)
        connection.close()
        await downloads.ended()
        cut, over = downloads.cut, await exiting
    async with serve(GUARDED, limits=LIMITS) as another:
        await downloads.resume(another)
    broken = late("the last process exited", over, GRACEFUL_TIMEOUT_SECONDS)
    broken += [reason for one in downloads.found for reason in differs(one)]
    broken += [f"an export that was requested then got {refused.status}"] * (refused.status != 503)
    broken += [f"{len(cut)} exports were cut off, and not the slow one"] * (
        cut != downloads.found[-1:]
    )
    figure = (
        f"{READERS - len(cut)} of {READERS} exports were completed, and the one of a slow client "
        f"ended visibly incomplete; resumed at another instance, it had all {POSTS:,} posts once; "
        f"a new export got {refused.status}; all processes had exited after {over:.1f} s"
    )
    judge("An instance with exports is stopped (SIGTERM)", control, figure, broken)
