"""The application that Gunicorn serves in a case, without the safeguard that FAULTS_CONTROL names.

It has additional routes that cause trouble or show the state of a worker.
"""

import asyncio
import os
import resource
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from contextvars import Context
from pathlib import Path
from unittest.mock import patch

from fastapi import Request
from sqlalchemy import text
from starlette.responses import StreamingResponse

from app.errors import Unavailable
from app.infra.database.settings import DatabaseSettings
from app.infra.dependencies import LaggingSession, Resources, WriteSession
from app.infra.observability.logs import open_log
from app.main import create_app
from app.settings import Settings
from tests.faults import jobs
from tests.faults.controls import CONTROL, PATCHES, SETTINGS
from tests.faults.troubles import BROKEN, LOADS, TROUBLE, TROUBLES
from tests.features.idempotency import slow_route
from tests.sample import stream as endless_stream

if Path(os.environ.get(BROKEN, "/nowhere")).exists():
    raise ImportError("This was raised on purpose.")

# Not read from the environment, because the package of the tests hides it.
settings = Settings.model_validate_json(os.environ[SETTINGS])
app = create_app(settings, open_log(settings.log, is_production=settings.is_production))
app.include_router(endless_stream.router)
app.include_router(jobs.router)
app.include_router(slow_route.router)

for replacement in PATCHES.get(os.environ[CONTROL], ()):
    patch.object(*replacement).start()
for owner, name, wrap in TROUBLES[os.environ.get(TROUBLE, "")]:
    patch.object(owner, name, wrap(getattr(owner, name))).start()


EXHAUSTING: set[asyncio.Task[None]] = set()


@app.get("/faults/hold/{seconds}")
async def hold(seconds: float, session: WriteSession) -> None:
    """Keep a transaction open with a slow statement."""
    await session.execute(text("SELECT pg_sleep(:seconds)"), {"seconds": seconds})


@app.get("/faults/lagging")
async def lagging(session: LaggingSession) -> bool:
    """Return whether the standby has answered."""
    return bool((await session.execute(text("SELECT pg_is_in_recovery()"))).scalar_one())


@app.post("/faults/upload")
async def upload(request: Request, held: Resources) -> int:
    """Read the body while a transaction is open."""
    async with held.database.transaction() as session:
        await session.execute(text("SELECT 1"))
        return len(await request.body())


@app.post("/faults/echo")
async def echo(request: Request) -> int:
    """Read the body."""
    return len(await request.body())


@app.post("/faults/unread")
async def unread() -> None:
    """Respond without reading the body."""


@app.get("/faults/sleep/{seconds}")
async def sleep(seconds: float) -> None:
    await asyncio.sleep(seconds)


@app.get("/faults/stream/{seconds}")
async def stream(seconds: int) -> StreamingResponse:
    """Send a piece every 0.1 s, even if the server shuts down."""

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(seconds * 10):
            yield b"."
            await asyncio.sleep(0.1)

    return StreamingResponse(pieces())


@app.get("/faults/descriptors/{seconds}")
async def exhaust_descriptors(seconds: float) -> dict[str, int]:
    """Leave this worker without file descriptors for a while."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 20, before[1]))
    loop = asyncio.get_running_loop()

    async def hold_all() -> None:
        held: list[int] = []
        until = loop.time() + seconds
        while loop.time() < until:
            with suppress(OSError):
                while True:  # also take the descriptors that others close
                    held.append(os.open(os.devnull, os.O_RDONLY))
            await asyncio.sleep(0.005)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        for descriptor in held:
            os.close(descriptor)

    EXHAUSTING.add(loop.create_task(hold_all()))
    return {"process_id": os.getpid()}


@app.get("/faults/fail")
async def fail() -> None:
    """Raise an unexpected exception."""
    raise RuntimeError("This was raised on purpose.")


@app.get("/faults/vitals")
async def vitals(held: Resources, request: Request) -> dict[str, object]:
    """Return the state of this worker."""
    pool = held.database.engine.pool
    ready, checks = await request.app.state.readiness.report()
    return {
        "process_id": os.getpid(),
        "ready": ready,
        "cache": checks["cache"],
        "tasks": len(asyncio.all_tasks()),
        "names": [task.get_name() for task in asyncio.all_tasks()],
        "checked_out": pool.checkedout(),  # type: ignore[attr-defined]
        "loads": dict(LOADS),
    }


HELD: list[float] = []  # the longest CPU time between two turns of the event loop
LOOK_SECONDS = 0.005


@app.get("/faults/held")
async def held_loop() -> dict[str, object]:
    """Return the longest time for which the event loop was blocked since the last call."""
    if not HELD:
        HELD.append(0.0)
        LOOKING.add(asyncio.get_running_loop().create_task(look(), context=Context()))
    held, HELD[0] = HELD[0], 0.0
    return {"process_id": os.getpid(), "held": held}


async def look() -> None:
    """Measure the CPU time between two turns of the event loop."""
    while True:
        used = time.thread_time()
        await asyncio.sleep(LOOK_SECONDS)
        HELD[0] = max(HELD[0], time.thread_time() - used)


LOOKING: set[asyncio.Task[None]] = set()


@app.get("/faults/pool")
async def whole_pool(held: Resources) -> dict[str, object]:
    """Return whether every connection of the pool works, all at the same time."""
    whole = True
    async with AsyncExitStack() as stack:
        try:
            for _ in range(held.settings[DatabaseSettings].pool_size):
                session = await stack.enter_async_context(held.database.read())
                await session.execute(text("SELECT 1"))
        except Unavailable:
            whole = False
    return {"process_id": os.getpid(), "whole": whole}
