"""What Gunicorn serves in a case: the application, less a guard if FAULTS_CONTROL names one, and
routes that make trouble or look inside.
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
from tests.faults.controls import CONTROL, PATCHES, SETTINGS
from tests.faults.troubles import BROKEN, LOADS, TROUBLE, TROUBLES
from tests.sample import stream as endless_stream

if Path(os.environ.get(BROKEN, "/nowhere")).exists():
    raise ImportError("This was raised on purpose.")

# Not the environment's own: the package of the tests hides those from everybody.
settings = Settings.model_validate_json(os.environ[SETTINGS])
app = create_app(settings, open_log(settings.log, is_production=settings.is_production))
app.include_router(endless_stream.router)

for replacement in PATCHES.get(os.environ[CONTROL], ()):
    patch.object(*replacement).start()
for owner, name, wrap in TROUBLES[os.environ.get(TROUBLE, "")]:
    patch.object(owner, name, wrap(getattr(owner, name))).start()


EXHAUSTING: set[asyncio.Task[None]] = set()


@app.get("/faults/hold/{seconds}")
async def hold(seconds: float, session: WriteSession) -> None:
    """Keep a transaction open with a statement that takes long."""
    await session.execute(text("SELECT pg_sleep(:seconds)"), {"seconds": seconds})


@app.get("/faults/lagging")
async def lagging(session: LaggingSession) -> bool:
    """Tell whether a replica has answered."""
    return bool((await session.execute(text("SELECT pg_is_in_recovery()"))).scalar_one())


@app.post("/faults/upload")
async def upload(request: Request, held: Resources) -> int:
    """Read what the client sends while a transaction is open."""
    async with held.database.transaction() as session:
        await session.execute(text("SELECT 1"))
        return len(await request.body())


@app.post("/faults/echo")
async def echo(request: Request) -> int:
    """Read what the client sends."""
    return len(await request.body())


@app.post("/faults/unread")
async def unread() -> None:
    """Answer without reading it."""


@app.get("/faults/sleep/{seconds}")
async def sleep(seconds: float) -> None:
    """Take long, and nothing but time."""
    await asyncio.sleep(seconds)


@app.get("/faults/stream/{seconds}")
async def stream(seconds: int) -> StreamingResponse:
    """Answer a piece at a time, whether the server ends or not."""

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
                while True:  # what others give back is taken as well
                    held.append(os.open(os.devnull, os.O_RDONLY))
            await asyncio.sleep(0.005)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        for descriptor in held:
            os.close(descriptor)

    EXHAUSTING.add(loop.create_task(hold_all()))
    return {"process_id": os.getpid()}


@app.get("/faults/fail")
async def fail() -> None:
    """Raise what nobody expects."""
    raise RuntimeError("This was raised on purpose.")


@app.get("/faults/vitals")
async def vitals(held: Resources, request: Request) -> dict[str, object]:
    """Tell what this worker holds."""
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


HELD: list[float] = []  # the longest seconds of CPU that passed between two looks
LOOK_SECONDS = 0.005


@app.get("/faults/held")
async def held_loop() -> dict[str, object]:
    """Tell for how long the loop was held up since the last call."""
    if not HELD:
        HELD.append(0.0)
        LOOKING.add(asyncio.get_running_loop().create_task(look(), context=Context()))
    held, HELD[0] = HELD[0], 0.0
    return {"process_id": os.getpid(), "held": held}


async def look() -> None:
    """Look how much CPU was used since the last time, as what holds a loop up does."""
    while True:
        used = time.thread_time()
        await asyncio.sleep(LOOK_SECONDS)
        HELD[0] = max(HELD[0], time.thread_time() - used)


LOOKING: set[asyncio.Task[None]] = set()


@app.get("/faults/pool")
async def whole_pool(held: Resources) -> dict[str, object]:
    """Tell whether every connection of the pool can be had and works, all at once."""
    whole = True
    async with AsyncExitStack() as stack:
        try:
            for _ in range(held.settings[DatabaseSettings].pool_size):
                session = await stack.enter_async_context(held.database.read())
                await session.execute(text("SELECT 1"))
        except Unavailable:
            whole = False
    return {"process_id": os.getpid(), "whole": whole}
