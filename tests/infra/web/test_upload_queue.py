"""Uploads are refused while too many wait, and only uploads."""

import asyncio

from fastapi import Request

from app.settings import Settings
from tests.application import client_of, running

MIB = 1024 * 1024


async def test_only_uploads_are_refused_when_too_many_wait(settings: Settings) -> None:
    limits = settings.limits.model_copy(update={"uploads": 1})
    async with running(settings.model_copy(update={"limits": limits})) as app:

        @app.post("/uploads", max_body_size=4 * MIB)
        @app.post("/others")
        async def take(request: Request) -> None:
            await request.body()

        async with client_of(app) as client:

            async def send(method: str, path: str) -> int:
                return (await client.request(method, path, content=b" ")).status_code

            answers = await asyncio.gather(
                *(send("POST", "/uploads") for _ in range(4)),
                send("PATCH", "/uploads"),  # this is no upload
                send("POST", "/others"),
            )
    assert sorted(answers[:4]) == [200, 503, 503, 503]
    assert answers[4:] == [405, 200]
