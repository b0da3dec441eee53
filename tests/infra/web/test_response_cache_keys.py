"""Each answer has one key. Any other spelling of a request bypasses the cache."""

from collections.abc import AsyncIterator

import httpx2
import pytest
from fastapi import FastAPI

from app.infra.cache.settings import CacheSettings
from tests.application import client_of
from tests.cached_app import (
    NO_CACHE,
    cache_of,
    settled,
    source,
    stored,
)
from tests.sample.factory import NoteFactory

Client = httpx2.AsyncClient


@pytest.fixture
async def client(service: FastAPI, clean: None) -> AsyncIterator[Client]:
    await settled(service)
    async with client_of(service) as client:
        yield client


@pytest.fixture
def make(service: FastAPI, clean: None) -> NoteFactory:
    return NoteFactory(service.state.resources)


async def test_order_of_parameters_does_not_matter(
    client: Client, service: FastAPI, make: NoteFactory
) -> None:
    author = await make.user()
    await make.notes(3, author)
    await settled(service)
    cursor = (await client.get(f"/test/notes?author_id={author.id}&limit=1")).json()["next"]
    await cache_of(service).flush()
    await settled(service)
    orders = [
        f"limit=1&cursor={cursor}&author_id={author.id}",
        f"author_id={author.id}&cursor={cursor}&limit=1",
        f"cursor={cursor}&author_id={author.id}&limit=1",
    ]
    answers = [await client.get(f"/test/notes?{order}") for order in orders]
    assert [answer.headers["x-cache"] for answer in answers] == ["MISS", "HIT-L1", "HIT-L1"]
    assert {answer.content for answer in answers} == {answers[0].content}
    assert {answer.headers["link"] for answer in answers} == {answers[0].headers["link"]}
    assert await stored(service) == {f"/test/notes?{orders[1]}"}


async def test_each_page_and_filter_has_its_own_entry(
    client: Client, service: FastAPI, make: NoteFactory
) -> None:
    author = await make.user()
    notes = await make.notes(3, author)
    urls = [
        "/test/notes?",
        "/test/notes?limit=1",
        "/test/notes?limit=2",
        "/test/notes?author_id=999",
    ]
    urls += [f"/test/notes/{note.id}?" for note in notes]
    urls += [f"/test/notes/{notes[0].id}/replies?", f"/test/notes/{notes[0].id}/replies?limit=1"]
    for url in urls:
        assert await source(client, url) == "MISS"
    assert await stored(service) == set(urls)
    assert len({(await client.get(url)).content for url in urls[:4]}) == 4


PAST = [
    "/test/notes?limit=5&limit=5",
    "/test/notes?limit=5&limit=6",
    "/test/notes?author_id=1&author_id=2",
    "/test/notes?limit=5&x=1",
    "/test/notes?x",
    "/test/notes?utm_source=a",
    "/test/notes?LIMIT=5",
    "/test/notes?Limit=5",
    "/test/notes?limit=%35",
    "/test/notes?%6cimit=5",
    "/test/notes?limit",
    "/test/notes?limit=",
    "/test/notes?limit=5&",
    "/test/notes?&limit=5",
    "/test/notes?&",
    "/test/notes?=",
    "/test/notes?limit=5;author_id=1",
    "/test/notes?limit=+5",
    "/test/notes?limit=5%00",
    "/test/notes?limit=5%0A",
    "/test/notes?limit==5",
    "/test/notes?cursor=" + "A" * 65,
    "/test/notes?limit=5?",
    "/test/notes/{note}?x=1",
    "/test/notes/{note}?limit=1",
    "/test/notes/{note}/replies?author_id=1",
    "/v1/users/{user}?id=1",
]


@pytest.mark.parametrize("url", PAST)
async def test_unusual_query_bypasses_the_cache(
    client: Client, service: FastAPI, make: NoteFactory, url: str
) -> None:
    note = await make.note()
    url = url.format(note=note.id, user=note.author_id)
    assert [await source(client, url) for _ in range(2)] == ["BYPASS", "BYPASS"]
    assert not await stored(service)
    assert cache_of(service).memory.bytes_held == 0


@pytest.mark.parametrize(
    "query", ["limit=05", "limit=0", "limit=101", "limit=5.0", "limit=-5", "author_id=01"]
)
async def test_other_spelling_of_a_number_is_refused(
    client: Client, service: FastAPI, query: str
) -> None:
    for _ in range(2):
        response = await client.get(f"/test/notes?{query}")
        assert response.status_code == 422
        assert response.headers["x-cache"] not in ("HIT", "HIT-L1")
    assert not await stored(service)


# The server decodes the path, so a needless escape does not make another resource.
@pytest.mark.parametrize("path", ["/test/%6eotes", "/test%2Fnotes", "/%74est/notes"])
async def test_needlessly_escaped_path_is_the_same_resource(
    client: Client, service: FastAPI, path: str
) -> None:
    plain = await client.get("/test/notes")
    response = await client.get(path)
    assert response.content == plain.content
    assert await stored(service) == {"/test/notes?"}


@pytest.mark.parametrize(
    "path",
    [
        "/test/notes%0A",
        "/test/notes%0D%0A",
        "/test/notes%00",
        "/test/notes%20",
        "/test/notes%09",
        "/test/notes%3F",
        "/test/notes%3Flimit=1",
        "/test/notes%23",
        "/test/notes%25",
        "/test/notes%C3%A9",
        "/test/notes%FF",
        "/test/notes/%2e",
        "/test/notes/%2E%2E/notes",
        "/test/notes;a=1",
        "/test/notes/",
        "/test//notes",
        "/test/NOTES",
    ],
)
async def test_similar_path_does_not_change_the_cached_list(
    client: Client, service: FastAPI, make: NoteFactory, path: str
) -> None:
    await make.notes(3)
    await settled(service)
    for query in ("", "?limit=1"):
        disturbing = await client.get(f"{path}{query}")
        # The framework ignores a line feed at the end of a path.
        assert disturbing.status_code in (404, 422) or path.endswith("notes%0A")
        assert not await stored(service)
        clean = await client.get(f"/test/notes{query}")
        assert clean.headers["x-cache"] == "MISS"
        assert len(clean.json()["items"]) == (1 if query else 3)
        again = await client.get(f"{path}{query}")
        assert again.status_code == disturbing.status_code
        assert (await client.get(f"/test/notes{query}")).content == clean.content
        await cache_of(service).flush()
        await settled(service)


@pytest.mark.parametrize("suffix", ["%0A", "%20", "%00", ".0", "%2B", "%E2%80%A8"])
async def test_other_spelling_of_an_id_is_refused(
    client: Client, service: FastAPI, make: NoteFactory, suffix: str
) -> None:
    note = await make.note()
    for url in (f"/test/notes/{note.id}", f"/v1/users/{note.author_id}"):
        assert (await client.get(url + suffix)).status_code == 422
        assert (await client.get(url[:-1] + "0" + url[-1])).status_code in (404, 422)
    assert not {key for key in await stored(service) if not key.endswith("0?")}
    assert (await client.get(f"/test/notes/{note.id}")).json()["id"] == note.id


# Missing resources


async def test_404_is_cached_without_the_request_id(client: Client, service: FastAPI) -> None:
    urls = ["/test/notes/7", "/test/notes/7/replies", "/v1/users/7"]
    for url in urls:
        expected = ["MISS", "HIT-L1", "HIT"]
        for where, control in zip(expected, [{}, {}, NO_CACHE], strict=True):
            asked = {"X-Request-ID": f"request-{where}"}
            response = await client.get(url, headers=asked | control)
            assert response.status_code == 404
            assert response.headers["x-cache"] == where
            assert response.json()["request_id"] == f"request-{where}"
            assert response.json()["instance"] == url
            assert response.headers["x-request-id"] == f"request-{where}"
            assert response.headers.get_list("cache-control") == ["private, no-store"]
            assert response.headers["content-type"] == "application/problem+json"
            assert response.headers.get_list("content-length") == [str(len(response.content))]
            assert "etag" not in response.headers
    assert await stored(service) == {f"{url}?" for url in urls}


@pytest.mark.parametrize("condition", ["*", '"a"', ""])
async def test_condition_on_a_missing_resource_is_404(client: Client, condition: str) -> None:
    for _ in range(2):
        response = await client.get("/test/notes/7", headers={"If-None-Match": condition})
        assert response.status_code == 404


async def test_head_gets_the_cached_404(client: Client) -> None:
    for where in ("MISS", "HIT-L1"):
        response = await client.head("/test/notes/7")
        assert (response.status_code, response.content) == (404, b"")
        assert response.headers["x-cache"] == where


async def test_cached_404_expires_sooner(
    client: Client, service: FastAPI, make: NoteFactory
) -> None:
    note = await make.note()
    await client.get(f"/test/notes/{note.id}")
    await client.get("/test/notes/999")
    store = cache_of(service).store
    found, missing = [
        await store._valkey.pttl(f"{store._entry_prefix}/test/notes/{note_id}?")
        for note_id in (note.id, 999)
    ]
    cache = service.state.resources.settings[CacheSettings]
    assert 0 < missing <= cache.missing_ttl_seconds * 1_000 < found <= cache.ttl_seconds * 1_000


async def test_creating_a_note_drops_its_cached_404(client: Client, make: NoteFactory) -> None:
    author = await make.user()
    note_id = (await make.note(author)).id + 1
    for url in (f"/test/notes/{note_id}", f"/test/notes/{note_id}/replies"):
        assert [(await client.get(url)).status_code for _ in range(2)] == [404, 404]
    new = {"title": "T", "body": "B"}
    created = await client.post("/test/notes", json=new, headers=make.headers(author))
    assert created.json()["id"] == note_id
    assert (await client.get(f"/test/notes/{note_id}")).json() == created.json()
    assert (await client.get(f"/test/notes/{note_id}/replies")).json()["items"] == []


async def test_creating_an_account_drops_its_cached_404(client: Client, make: NoteFactory) -> None:
    user_id = (await make.user()).id + 1
    assert [(await client.get(f"/v1/users/{user_id}")).status_code for _ in range(2)] == [404, 404]
    assert (await client.get(f"/test/notes?author_id={user_id}")).json()["items"] == []
    new = {"email": "new@example.com", "name": "New", "password": "correct horse"}
    created = await client.post("/v1/users", json=new)
    assert created.json()["id"] == user_id
    assert (await client.get(f"/v1/users/{user_id}")).json()["name"] == "New"
