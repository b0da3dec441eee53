"""Cached answers through the server, which sends heads that were encoded before."""

import asyncio
from collections.abc import AsyncIterator

import httpx2
import pytest
from fastapi import FastAPI

from app.settings import Settings
from tests.application import client_of
from tests.cached_app import GZIP, LONG, patient_app, settled
from tests.sample.factory import NoteFactory
from tests.served import served

Client = httpx2.AsyncClient

ORIGIN = {"Origin": "https://shop.test"}
# They differ between two requests, or only a server sends them.
OWN = {"age", "date", "ratelimit", "server", "x-process-time", "x-request-id"}


@pytest.fixture(params=["", ORIGIN["Origin"]], ids=["", "cors"])
async def service(
    request: pytest.FixtureRequest, settings: Settings, clean: None
) -> AsyncIterator[FastAPI]:
    """With CORS, a middleware changes `Vary` and adds headers."""
    values = settings.model_dump()
    values["cors"] = {"origins": request.param}
    async with patient_app(Settings.model_validate(values)) as app:
        yield app


@pytest.fixture
async def client(service: FastAPI, settings: Settings) -> AsyncIterator[Client]:
    """A client of the server."""
    async with served(service, settings) as url, Client(base_url=url) as client:
        del client.headers["accept-encoding"]
        yield client


@pytest.fixture
async def url(service: FastAPI, client: Client) -> str:
    """A cached route whose answer is in the memory of the process."""
    make = NoteFactory(service.state.resources)
    note = await make.note(await make.user(name="Ann"), body=LONG)
    await settled(service)
    assert (await client.get(f"/test/notes/{note.id}")).headers["x-cache"] == "MISS"
    return f"/test/notes/{note.id}"


def shown(response: httpx2.Response) -> tuple[int, list[tuple[str, str]], bytes]:
    headers = [header for header in response.headers.multi_items() if header[0] not in OWN]
    return response.status_code, headers, response.content


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("headers", [{}, GZIP, ORIGIN, GZIP | ORIGIN, {"Range": "bytes=0-1"}])
@pytest.mark.parametrize("is_known", [False, True])
async def test_the_server_sends_what_the_application_answers(
    service: FastAPI,
    client: Client,
    url: str,
    method: str,
    headers: dict[str, str],
    *,
    is_known: bool,
) -> None:
    if is_known:
        etag = (await client.get(url, headers=headers)).headers["etag"]
        headers = {**headers, "If-None-Match": etag}
    sent = await client.request(method, url, headers=headers)
    async with client_of(service) as direct:
        del direct.headers["accept-encoding"]
        answered = await direct.request(method, url, headers=headers)
    assert shown(sent) == shown(answered)
    assert sent.status_code == (304 if is_known else 200)
    assert sent.headers["x-cache"] == "HIT-L1"
    assert sent.headers.keys() - {"date", "server"} == answered.headers.keys()


async def test_each_client_gets_the_headers_of_its_own_request(client: Client, url: str) -> None:
    identifiers = [f"request-{number:04}" for number in range(100)]
    asked = (client.get(url, headers={"X-Request-ID": one}) for one in identifiers)
    answers = await asyncio.gather(*asked)
    assert [answer.headers["x-request-id"] for answer in answers] == identifiers
    assert {answer.headers["x-cache"] for answer in answers} == {"HIT-L1"}
