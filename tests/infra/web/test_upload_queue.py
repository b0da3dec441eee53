"""Uploads are refused while too many run or wait, and only uploads."""

import asyncio
from collections.abc import AsyncIterator

import httpx2
import pytest
from fastapi import Request

from app.settings import Settings
from tests.application import client_of, running

MIB = 1024 * 1024


@pytest.fixture
async def client_of_one(settings: Settings) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of an application in which one upload may wait, and one may run."""
    limits = settings.limits.model_copy(update={"uploads": 1})
    async with running(settings.model_copy(update={"limits": limits})) as app:

        @app.post("/uploads", max_body_size=4 * MIB)
        async def upload(request: Request) -> int:
            return len(await request.body())

        async with client_of(app) as client:
            yield client


async def test_only_uploads_are_refused_while_all_places_are_taken(settings: Settings) -> None:
    limits = settings.limits.model_copy(update={"uploads": 1})
    async with running(settings.model_copy(update={"limits": limits})) as app:
        runs, leave = asyncio.Event(), asyncio.Event()

        @app.post("/uploads", max_body_size=4 * MIB)
        async def upload(request: Request) -> None:
            runs.set()
            await leave.wait()

        @app.post("/others")
        async def other(request: Request) -> None:
            await request.body()

        async with client_of(app) as client, asyncio.timeout(60):
            first = asyncio.create_task(client.post("/uploads", content=b" "))
            await runs.wait()
            assert (await client.post("/uploads", content=b" ")).status_code == 503
            # A method that the route does not have is no upload.
            assert (await client.patch("/uploads", content=b" ")).status_code == 405
            assert (await client.patch("/uploads", content=b" " * 2 * MIB)).status_code == 413
            assert (await client.post("/others", content=b" ")).status_code == 200
            leave.set()
            assert (await first).status_code == 200


async def test_only_uploads_are_refused_while_too_many_wait(settings: Settings) -> None:
    """All of these arrive before the first upload is read."""
    limits = settings.limits.model_copy(update={"uploads": 1})
    async with running(settings.model_copy(update={"limits": limits})) as app:

        @app.post("/uploads", max_body_size=4 * MIB)
        async def upload(request: Request) -> None: ...

        async with client_of(app) as client:

            async def send(method: str) -> int:
                return (await client.request(method, "/uploads", content=b" ")).status_code

            answers = await asyncio.gather(*map(send, ["POST"] * 4 + ["PATCH"] * 4))
    assert sorted(answers[:4]) == [200, 503, 503, 503]
    assert answers[4:] == [405] * 4


async def test_an_upload_that_has_ended_waits_no_longer(client_of_one: httpx2.AsyncClient) -> None:
    """This also holds for an upload whose body is never read, because it is too large."""
    for size, status in ((1, 200), (5 * MIB, 413), (1, 200)):
        response = await client_of_one.post("/uploads", content=b" " * size)
        assert response.status_code == status


async def test_an_upload_whose_client_is_slow_does_not_make_others_wait(
    client_of_one: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.infra.web.body_budget.SILENCE_SECONDS", 60)
    begun, rest = asyncio.Event(), asyncio.Event()

    async def pieces() -> AsyncIterator[bytes]:
        yield b" "
        begun.set()
        await rest.wait()
        yield b" "

    slow = asyncio.create_task(client_of_one.post("/uploads", content=pieces()))
    async with asyncio.timeout(60):
        await begun.wait()
        other = await client_of_one.post("/uploads", content=b" ")
        rest.set()
        assert (other.status_code, other.text) == (200, "1")
        assert ((await slow).status_code, (await slow).text) == (200, "2")
