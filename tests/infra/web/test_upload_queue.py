"""Many uploads that arrive at once, and have to be refused, leave time for other requests."""

import asyncio

import pytest
from fastapi import Request

from app.infra.web import upload_queue
from app.settings import Settings
from tests.application import client_of, running

MIB = 1024 * 1024
UPLOADS = 100


async def test_other_requests_run_between_refusals(settings: Settings) -> None:
    limits = settings.limits.model_copy(update={"uploads": 1})
    async with running(settings.model_copy(update={"limits": limits})) as app:

        @app.post("/uploads", max_body_size=4 * MIB)
        @app.post("/others")
        async def take(request: Request) -> None:
            await request.body()

        async with client_of(app) as client:
            finished: list[str] = []

            async def send(method: str, path: str) -> int:
                response = await client.request(method, path, content=b" ")
                finished.append(path)
                return response.status_code

            uploads = [asyncio.create_task(send("POST", "/uploads")) for _ in range(UPLOADS)]
            wrong_method = asyncio.create_task(send("PATCH", "/uploads"))
            other = asyncio.create_task(send("POST", "/others"))
            assert await other == 200
            assert finished.count("/uploads") < UPLOADS / 2
            assert await wrong_method == 405  # this is no upload
            assert set(await asyncio.gather(*uploads)) == {200, 503}


async def test_no_refusal_waits_longer_than_the_longest_line(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise clients that send uploads without end would make others wait without end."""
    monkeypatch.setattr(upload_queue, "SECONDS_BETWEEN", 3_600)
    monkeypatch.setattr(upload_queue, "LONGEST_LINE_SECONDS", 0.01)
    limits = settings.limits.model_copy(update={"uploads": 1})
    async with running(settings.model_copy(update={"limits": limits})) as app:

        @app.post("/uploads", max_body_size=4 * MIB)
        async def take(request: Request) -> None:
            await request.body()

        async with client_of(app) as client, asyncio.timeout(60):
            posts = (client.post("/uploads", content=b" ") for _ in range(4))
            answers = [answer.status_code for answer in await asyncio.gather(*posts)]
    assert sorted(answers) == [200, 503, 503, 503]
