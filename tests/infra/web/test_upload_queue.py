"""Many uploads that arrive at once leave time for other requests."""

import asyncio

import pytest
from fastapi import Request

from app.infra.web import upload_queue
from app.settings import Settings
from tests.application import client_of, running

MIB = 1024 * 1024
UPLOADS = 100


async def test_other_requests_run_between_uploads_that_arrive_at_once(settings: Settings) -> None:
    limits = settings.limits.model_copy(update={"uploads": UPLOADS // 2})
    async with running(settings.model_copy(update={"limits": limits})) as app:

        @app.post("/uploads", max_body_size=4 * MIB)
        @app.post("/others")
        async def take(request: Request) -> None:
            await request.body()

        finished: list[str] = []

        async with client_of(app) as client:

            async def send(path: str) -> int:
                response = await client.post(path, content=b" ")
                finished.append(path)
                return response.status_code

            uploads = [asyncio.create_task(send("/uploads")) for _ in range(UPLOADS)]
            assert await send("/others") == 200
            assert finished.count("/uploads") < UPLOADS / 2
            assert set(await asyncio.gather(*uploads)) == {200, 503}


async def test_no_upload_waits_longer_than_the_longest_line(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise clients that send uploads without end would make others wait without end."""
    monkeypatch.setattr(upload_queue, "SECONDS_BETWEEN", 3_600)
    monkeypatch.setattr(upload_queue, "LONGEST_LINE_SECONDS", 0.01)
    async with running(settings) as app:

        @app.post("/uploads", max_body_size=4 * MIB)
        async def take(request: Request) -> None:
            await request.body()

        async with client_of(app) as client, asyncio.timeout(60):
            posts = (client.post("/uploads", content=b" ") for _ in range(3))
            assert {answer.status_code for answer in await asyncio.gather(*posts)} == {200}
