"""CACHE_ENABLED=false: the service works as before, and needs no Valkey."""

import gzip
import socket
from collections.abc import AsyncIterator, Iterator

import httpx2
import pytest
from fastapi import FastAPI

from app.infra.dependencies import ProcessResources
from app.settings import Settings
from tests.application import client_of, recorded_statements, running
from tests.cached_app import GZIP, LONG, NO_CACHE, NO_STORE, patient
from tests.factories import PASSWORD, Factory

Client = httpx2.AsyncClient


@pytest.fixture(scope="module")
def nobody_listens() -> Iterator[str]:
    """An address of Valkey that refuses connections."""
    with socket.socket() as listener:  # bound, so that nobody else takes it; it does not listen
        listener.bind(("127.0.0.1", 0))
        yield f"redis://127.0.0.1:{listener.getsockname()[1]}/0"


@pytest.fixture(scope="module")
async def service(settings: Settings, nobody_listens: str) -> AsyncIterator[FastAPI]:
    values = {**patient(settings, enabled=False).model_dump(), "valkey": {"url": nobody_listens}}
    async with running(Settings.model_validate(values)) as app:
        yield app


@pytest.fixture
async def client(service: FastAPI, clean: None) -> AsyncIterator[Client]:
    async with client_of(service) as client:
        del client.headers["accept-encoding"]
        yield client


@pytest.fixture
def make(service: FastAPI, clean: None) -> Factory:
    return Factory(service.state.resources)


@pytest.fixture
def statements(service: FastAPI) -> Iterator[list[str]]:
    with recorded_statements(service.state.resources) as sent:
        yield sent


@pytest.fixture
async def urls(make: Factory) -> list[str]:
    author = await make.user(bio=LONG[:500])
    post = await make.post(author, body=LONG)
    await make.comment(post, author, body=LONG)
    item = f"/v1/posts/{post.id}"
    return ["/v1/posts?limit=5", item, f"{item}/comments", f"/v1/users/{author.id}"]


async def test_everything_works(client: Client, statements: list[str]) -> None:
    new = {"email": "new@example.com", "name": "New", "password": PASSWORD}
    assert (await client.get("/v1/users/1")).status_code == 404
    user = await client.post("/v1/users", json=new)
    form = {"username": "new@example.com", "password": PASSWORD}
    token = (await client.post("/v1/auth/token", data=form)).json()
    headers = {"Authorization": f"Bearer {token['access_token']}"}
    assert (await client.get("/v1/users/me", headers=headers)).json() == user.json()
    created = await client.post("/v1/posts", json={"title": "T", "body": "B"}, headers=headers)
    url = created.headers["location"]
    assert (await client.get(url)).json() == created.json()
    assert (await client.get("/v1/posts")).json()["items"] == [created.json()]
    comment = await client.post(f"{url}/comments", json={"body": "B"}, headers=headers)
    assert (await client.get(f"{url}/comments")).json()["items"] == [comment.json()]
    assert (await client.get(url)).json()["comment_count"] == 1
    seen = headers | {"If-Match": (await client.get(url)).headers["etag"]}
    edits = [await client.patch(url, json={"title": f"T{i}"}, headers=seen) for i in range(2)]
    assert [edit.status_code for edit in edits] == [200, 412]
    await client.patch("/v1/users/me", json={"name": "Renamed"}, headers=headers)
    assert (await client.get(url)).json()["author"]["name"] == "Renamed"
    comment_url = f"/v1/comments/{comment.json()['id']}"
    for doomed in (comment_url, url, "/v1/users/me"):
        assert (await client.delete(doomed, headers=headers)).status_code == 204
    assert (await client.get("/v1/users/me", headers=headers)).status_code == 401
    assert (await client.get(url)).status_code == 404
    assert not [statement for statement in statements if "cache_outbox" in statement]


async def test_every_answer_is_from_the_database(
    client: Client, urls: list[str], statements: list[str]
) -> None:
    for url in urls:
        for headers in ({}, {}, NO_CACHE, NO_STORE):
            statements.clear()
            response = await client.get(url, headers=headers)
            assert (response.status_code, response.headers["x-cache"]) == (200, "BYPASS")
            assert len(statements) == 1
            assert "age" not in response.headers


async def test_an_answer_is_the_one_of_a_service_with_a_cache(
    client: Client, urls: list[str], app: FastAPI
) -> None:
    ours = {"x-cache", "x-request-id", "age", "x-process-time", "server-timing"}
    async with client_of(app) as cached:
        for url in [*urls, "/v1/posts/999", "/v1/posts?limit=0", "/v1/posts?x=1"]:
            for form in ({"Accept-Encoding": "identity"}, GZIP):
                asked = form | {"X-Request-ID": "of-both-requests"}
                one, two = [await who.get(url, headers=asked) for who in (client, cached)]
                assert one.status_code == two.status_code
                assert one.content == two.content
                assert {k: v for k, v in one.headers.items() if k not in ours} == {
                    k: v for k, v in two.headers.items() if k not in ours
                }


async def test_who_has_it_gets_no_body(client: Client, urls: list[str]) -> None:
    for url in urls:
        for form in ({}, GZIP):
            fresh = await client.get(url, headers=form)
            response = await client.get(
                url, headers=form | {"If-None-Match": fresh.headers["etag"]}
            )
            assert (response.status_code, response.content) == (304, b"")
            for name in ("etag", "cache-control", "vary"):
                assert response.headers[name] == fresh.headers[name]


async def test_the_compressed_form_is_the_same_bytes(client: Client, urls: list[str]) -> None:
    for url in urls:
        plain = await client.get(url)
        async with client.stream("GET", url, headers=GZIP) as small:
            raw = b"".join([chunk async for chunk in small.aiter_raw()])
        assert gzip.decompress(raw) == plain.content
        assert small.headers["etag"] == plain.headers["etag"][:-1] + '-gzip"'


async def test_head_is_get_without_its_body(client: Client, urls: list[str]) -> None:
    for url in urls:
        got, head = await client.get(url), await client.head(url)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["etag"] == got.headers["etag"]
        assert head.headers["content-length"] == str(len(got.content))


async def test_a_process_is_ready_without_valkey(client: Client) -> None:
    response = await client.get("/readyz")
    assert response.status_code == 200
    assert response.json() == {
        "status": "ready",
        "checks": {"database": "ok", "valkey": "not used", "cache": "not used"},
    }


async def test_nothing_of_the_cache_is_open(service: FastAPI) -> None:
    held: ProcessResources = service.state.resources
    assert held.cache is None
