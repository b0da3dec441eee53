"""The headers X-Process-Time and Server-Timing."""

import httpx2

from app.settings import Settings
from tests.application import client_of, running
from tests.sample.factory import NoteFactory


async def test_every_response_has_its_process_time(client: httpx2.AsyncClient) -> None:
    for path in ("/test/notes", "/test/notes", "/nowhere", "/livez", "/v1/users/me"):
        assert 0 <= float((await client.get(path)).headers["x-process-time"]) < 60


async def test_development_sends_server_timing(settings: Settings, make: NoteFactory) -> None:
    note = await make.note()
    values = {**settings.model_dump(), "metrics": {}}
    async with running(Settings.model_validate(values)) as app, client_of(app) as client:
        first, second = [
            (await client.get(f"/test/notes/{note.id}")).headers["server-timing"] for _ in range(2)
        ]
    assert 'desc="1 statements"' in first
    assert "cache;desc=MISS" in first
    assert "db;" not in second
    assert "cache;desc=HIT" in second


async def test_production_does_not_send_server_timing(settings: Settings, clean: None) -> None:
    values = settings.model_dump()
    values["environment"] = "production"
    values["mail"] = {}  # production refuses the folder of the tests
    values["auth"]["secret"] = "a secret that is long enough for production"
    async with running(Settings.model_validate(values)) as app, client_of(app) as client:
        headers = (await client.get("/test/notes")).headers
    assert "server-timing" not in headers
    assert "x-process-time" in headers
