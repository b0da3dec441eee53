"""A limited number of requests runs, a limited number waits, and the others are refused."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI, Response
from starlette.responses import StreamingResponse

from app.infra.observability.metrics import IN_FLIGHT, REFUSED
from app.infra.web import exempt_paths as unlimited
from app.infra.web.concurrency_limit import ConcurrencyLimiter
from app.settings import Settings
from tests.application import client_of, running
from tests.sample.factory import NoteFactory

Client = httpx2.AsyncClient
RUNNING, QUEUED, STREAMS = 2, 3, 2


class Gate:
    """Holds requests until it opens, and records their order."""

    def __init__(self, app: FastAPI) -> None:
        self.places: ConcurrencyLimiter = app.state.concurrency_limiter
        self.began: list[int] = []
        self.open = asyncio.Event()

    async def hold(self, number: int) -> None:
        self.began.append(number)
        await self.open.wait()

    async def fail(self) -> None:
        raise RuntimeError

    async def stream(self) -> StreamingResponse:
        async def pieces() -> AsyncIterator[bytes]:
            yield b"piece"
            await self.open.wait()

        return StreamingResponse(pieces())

    async def leave(self) -> Response:
        return Response(status_code=204)

    async def until(self, **expected: int) -> None:
        """Wait until as many slots are taken as expected."""
        async with asyncio.timeout(60):
            while any(getattr(self.places, name) != value for name, value in expected.items()):
                await asyncio.sleep(0.001)


@asynccontextmanager
async def gated(settings: Settings, **limits: Any) -> AsyncIterator[tuple[Gate, Client]]:
    few = {"running": RUNNING, "queued": QUEUED, "streams": STREAMS, "queue_seconds": 5, **limits}
    changed = settings.limits.model_copy(update=few)
    async with running(settings.model_copy(update={"limits": changed})) as app:
        gate = Gate(app)
        app.get("/hold/{number}")(gate.hold)
        app.get("/fail")(gate.fail)
        app.get("/stream")(gate.stream)
        app.get("/leave")(gate.leave)
        async with client_of(app) as client:
            yield gate, client


def refused(response: httpx2.Response) -> bool:
    """Return whether the response is a 503 with Retry-After."""
    if response.status_code != 503:
        return False
    assert response.json()["code"] == "unavailable"
    return response.headers["retry-after"] == "1"


def ask(client: Client, *paths: str) -> list[asyncio.Task[httpx2.Response]]:
    return [asyncio.create_task(client.get(path)) for path in paths]


async def statuses(tasks: list[asyncio.Task[httpx2.Response]]) -> list[int]:
    return [response.status_code for response in await asyncio.gather(*tasks)]


async def test_waiting_requests_are_served_in_order(settings: Settings) -> None:
    async with gated(settings) as (gate, client):
        tasks = ask(client, *(f"/hold/{number}" for number in range(RUNNING + QUEUED)))
        await gate.until(running=RUNNING, queued=QUEUED)
        assert gate.began == [0, 1]
        gate.open.set()
        assert await statuses(tasks) == [200] * (RUNNING + QUEUED)
        assert gate.began == [*range(RUNNING + QUEUED)]
        await gate.until(running=0, queued=0)


async def test_request_is_refused_when_all_places_are_taken(settings: Settings) -> None:
    async with gated(settings) as (gate, client):
        tasks = ask(client, *(f"/hold/{number}" for number in range(RUNNING + QUEUED)))
        await gate.until(running=RUNNING, queued=QUEUED)
        before = REFUSED.labels("in_flight")._value.get()
        assert refused(await client.get("/hold/9"))
        assert REFUSED.labels("in_flight")._value.get() == before + 1
        gate.open.set()
        assert await statuses(tasks) == [200] * (RUNNING + QUEUED)
        assert (await client.get("/hold/9")).status_code == 200


async def test_request_that_waits_too_long_is_refused(settings: Settings) -> None:
    async with gated(settings, queue_seconds=0.05) as (gate, client):
        tasks = ask(client, *(f"/hold/{number}" for number in range(RUNNING)))
        await gate.until(running=RUNNING)
        assert refused(await client.get("/hold/9"))
        assert (gate.places.queued, gate.began) == (0, [0, 1])
        gate.open.set()
        assert await statuses(tasks) == [200, 200]


async def test_cancelled_request_frees_its_place_in_the_queue(settings: Settings) -> None:
    async with gated(settings) as (gate, client):
        tasks = ask(client, "/hold/0", "/hold/1")
        await gate.until(running=RUNNING)
        [leaving] = ask(client, "/hold/2")
        await gate.until(queued=1)
        leaving.cancel()
        await gate.until(queued=0)
        gate.open.set()
        assert await statuses(tasks) == [200, 200]
        await gate.until(running=0)
        assert gate.began == [0, 1]


@pytest.mark.parametrize("path", ["/fail", "/nowhere", "/leave", "/test/notes?limit=0"])
async def test_slot_is_released_after_every_outcome(settings: Settings, path: str) -> None:
    async with gated(settings) as (gate, client):
        for _ in range(2 * RUNNING):
            await client.get(path)
        assert (gate.places.running, gate.places.streams) == (0, 0)


async def test_probes_and_metrics_are_not_limited(settings: Settings) -> None:
    async with gated(settings, queued=0) as (gate, client):
        tasks = ask(client, "/hold/0", "/hold/1")
        await gate.until(running=RUNNING)
        assert refused(await client.get("/nowhere"))
        for path in unlimited.EXEMPT_PATHS:
            assert (await client.get(path)).status_code in (200, 404), path
        gate.open.set()
        await statuses(tasks)


async def test_cache_hit_takes_no_slot_and_a_load_does(
    settings: Settings, make: NoteFactory
) -> None:
    user = await make.user()
    kept, other = await make.note(user), await make.note(user)
    async with gated(settings, queued=0) as (gate, client):
        assert (await client.get(f"/test/notes/{kept.id}")).status_code == 200
        tasks = ask(client, "/hold/0", "/hold/1")
        await gate.until(running=RUNNING)
        hit = await client.get(f"/test/notes/{kept.id}")
        assert hit.status_code == 200
        assert hit.headers["x-cache"].startswith("HIT")
        assert refused(await client.get(f"/test/notes/{other.id}"))
        gate.open.set()
        await statuses(tasks)
        assert (await client.get(f"/test/notes/{other.id}")).status_code == 200


async def test_stream_releases_its_slot_and_has_its_own_limit(
    settings: Settings,
) -> None:
    async with gated(settings) as (gate, client):
        tasks = ask(client, *["/stream"] * STREAMS)
        await gate.until(streams=STREAMS, running=0)
        assert refused(await client.get("/stream"))
        assert (await client.get("/leave")).status_code == 204
        gate.open.set()
        assert await statuses(tasks) == [200] * STREAMS
        await gate.until(streams=0, running=0)
        assert (await client.get("/stream")).text == "piece"


async def test_slots_are_measured(settings: Settings) -> None:
    async with gated(settings) as (gate, client):
        tasks = ask(client, *(f"/hold/{number}" for number in range(RUNNING + 1)), "/nowhere")
        await gate.until(running=RUNNING, queued=2)
        gate.places.measure()
        assert IN_FLIGHT.labels("running")._value.get() == RUNNING
        assert IN_FLIGHT.labels("queued")._value.get() == 2
        gate.open.set()
        await statuses(tasks)


async def test_cancelled_request_frees_its_slot(settings: Settings) -> None:
    async with gated(settings, queued=0) as (gate, client):
        tasks = ask(client, "/hold/0", "/hold/1")
        await gate.until(running=RUNNING)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert (gate.places.running, gate.places.queued) == (0, 0)
        gate.open.set()
        assert await statuses(ask(client, "/hold/2")) == [200]
