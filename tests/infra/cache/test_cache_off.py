"""With CACHE_ENABLED=false, the service gives the same answers and needs no Valkey."""

import gzip
import socket
from collections.abc import AsyncIterator, Iterator

import httpx2
import pytest
from fastapi import FastAPI

from app.infra.resources import ProcessResources
from app.settings import Settings
from tests.application import client_of, recorded_statements, running
from tests.cached_app import GZIP, LONG, NO_CACHE, NO_STORE, patient
from tests.features.users.factory import PASSWORD
from tests.sample.factory import NoteFactory

Client = httpx2.AsyncClient


@pytest.fixture(scope="module")
def unreachable_valkey() -> Iterator[str]:
    """A URL of Valkey that refuses connections."""
    with socket.socket() as listener:  # it takes the port, and does not listen
        listener.bind(("127.0.0.1", 0))
        yield f"redis://127.0.0.1:{listener.getsockname()[1]}/0"


@pytest.fixture(scope="module")
async def service(settings: Settings, unreachable_valkey: str) -> AsyncIterator[FastAPI]:
    values = {
        **patient(settings, enabled=False).model_dump(),
        "valkey": {"url": unreachable_valkey},
    }
    async with running(Settings.model_validate(values)) as app:
        yield app


@pytest.fixture
async def client(service: FastAPI, clean: None) -> AsyncIterator[Client]:
    async with client_of(service) as client:
        del client.headers["accept-encoding"]
        yield client


@pytest.fixture
def make(service: FastAPI, clean: None) -> NoteFactory:
    return NoteFactory(service.state.resources)


@pytest.fixture
def statements(service: FastAPI) -> Iterator[list[str]]:
    with recorded_statements(service.state.resources) as sent:
        yield sent


@pytest.fixture
async def urls(make: NoteFactory) -> list[str]:
    author = await make.user(bio=LONG[:500])
    note = await make.note(author, body=LONG)
    await make.reply(note, author, body=LONG)
    item = f"/test/notes/{note.id}"
    return ["/test/notes?limit=5", item, f"{item}/replies", f"/v1/users/{author.id}"]


async def test_users_and_notes_can_be_created_changed_and_deleted(
    client: Client, statements: list[str]
) -> None:
    new = {"email": "new@example.com", "name": "New", "password": PASSWORD}
    assert (await client.get("/v1/users/1")).status_code == 404
    user = await client.post("/v1/users", json=new)
    form = {"username": "new@example.com", "password": PASSWORD}
    token = (await client.post("/v1/auth/token", data=form)).json()
    headers = {"Authorization": f"Bearer {token['access_token']}"}
    assert (await client.get("/v1/users/me", headers=headers)).json() == user.json()
    created = await client.post("/test/notes", json={"title": "T", "body": "B"}, headers=headers)
    url = created.headers["location"]
    assert (await client.get(url)).json() == created.json()
    assert (await client.get("/test/notes")).json()["items"] == [created.json()]
    seen = headers | {"If-Match": (await client.get(url)).headers["etag"]}
    edits = [await client.patch(url, json={"title": f"T{i}"}, headers=seen) for i in range(2)]
    assert [edit.status_code for edit in edits] == [200, 412]
    await client.patch("/v1/users/me", json={"name": "Renamed"}, headers=headers)
    assert (await client.get(url)).json()["author"]["name"] == "Renamed"
    for deleted in (url, "/v1/users/me"):
        assert (await client.delete(deleted, headers=headers)).status_code == 204
    assert (await client.get("/v1/users/me", headers=headers)).status_code == 401
    assert (await client.get(url)).status_code == 404
    assert not [statement for statement in statements if "cache_outbox" in statement]


async def test_every_answer_comes_from_the_database(
    client: Client, urls: list[str], statements: list[str]
) -> None:
    for url in urls:
        for headers in ({}, {}, NO_CACHE, NO_STORE):
            statements.clear()
            response = await client.get(url, headers=headers)
            assert (response.status_code, response.headers["x-cache"]) == (200, "BYPASS")
            assert len(statements) == 1
            assert "age" not in response.headers


async def test_answers_equal_those_of_a_service_with_a_cache(
    client: Client, urls: list[str], app: FastAPI
) -> None:
    ours = {"x-cache", "x-request-id", "age", "x-process-time", "server-timing"}
    ours |= {"ratelimit", "ratelimit-policy"}
    async with client_of(app) as cached:
        for url in [*urls, "/test/notes/999", "/test/notes?limit=0", "/test/notes?x=1"]:
            for form in ({"Accept-Encoding": "identity"}, GZIP):
                asked = form | {"X-Request-ID": "of-both-requests"}
                one, two = [await caller.get(url, headers=asked) for caller in (client, cached)]
                assert one.status_code == two.status_code
                assert one.content == two.content
                assert {k: v for k, v in one.headers.items() if k not in ours} == {
                    k: v for k, v in two.headers.items() if k not in ours
                }


async def test_client_with_a_current_etag_receives_no_body(client: Client, urls: list[str]) -> None:
    for url in urls:
        for form in ({}, GZIP):
            fresh = await client.get(url, headers=form)
            response = await client.get(
                url, headers=form | {"If-None-Match": fresh.headers["etag"]}
            )
            assert (response.status_code, response.content) == (304, b"")
            for name in ("etag", "cache-control", "vary"):
                assert response.headers[name] == fresh.headers[name]


async def test_compressed_answer_has_the_same_content_and_an_etag_of_its_own(
    client: Client, urls: list[str]
) -> None:
    for url in urls:
        plain = await client.get(url)
        async with client.stream("GET", url, headers=GZIP) as small:
            raw = b"".join([chunk async for chunk in small.aiter_raw()])
        assert gzip.decompress(raw) == plain.content
        assert small.headers["etag"] == plain.headers["etag"][:-1] + '-gzip"'


async def test_head_equals_get_without_its_body(client: Client, urls: list[str]) -> None:
    for url in urls:
        got, head = await client.get(url), await client.head(url)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["etag"] == got.headers["etag"]
        assert head.headers["content-length"] == str(len(got.content))


async def test_process_is_ready_without_valkey(client: Client) -> None:
    response = await client.get("/readyz")
    assert response.status_code == 200
    assert response.json() == {
        "status": "ready",
        "checks": {
            "database": "ok",
            "valkey": "not used",
            "storage": "ok",
            "cache": "not used",
        },
    }


async def test_process_holds_no_cache(service: FastAPI) -> None:
    held: ProcessResources = service.state.resources
    assert held.cache is None
