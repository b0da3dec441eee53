"""Cached answers: where they come from, their ETags, their compression, and HEAD."""

import asyncio
import gzip
import threading
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI

from app.infra.web import stored_response
from app.infra.web.stored_response import decode
from app.settings import Settings
from coherent_cache import CacheBusy, Reader, memory
from coherent_cache.reader import Answer, Load
from tests.application import client_of, recorded_statements
from tests.cached_app import (
    GZIP,
    LONG,
    NO_CACHE,
    NO_STORE,
    cache_of,
    patient_app,
    settled,
    source,
    stored,
)
from tests.coherent_cache.harness import Clock
from tests.sample.factory import NoteFactory

Client = httpx2.AsyncClient


@pytest.fixture
async def client(service: FastAPI, clean: None) -> AsyncIterator[Client]:
    await settled(service)
    # A test adds Accept-Encoding itself.
    async with client_of(service) as client:
        del client.headers["accept-encoding"]
        yield client


@pytest.fixture
def make(service: FastAPI, clean: None) -> NoteFactory:
    return NoteFactory(service.state.resources)


@pytest.fixture
async def urls(service: FastAPI, client: Client, make: NoteFactory) -> list[str]:
    """Addresses of cached routes. Their answers are large enough to be compressed."""
    author = await make.user(name="Ann", bio=LONG[:500])
    for _ in range(3):
        note = await make.note(author, body=LONG)
    await make.reply(note, author, body=LONG)
    await settled(service)
    return [
        "/test/notes",
        f"/test/notes?author_id={author.id}&limit=2",
        f"/test/notes/{note.id}",
        f"/test/notes/{note.id}/replies",
        f"/v1/users/{author.id}",
    ]


# Source of an answer


async def test_second_answer_comes_from_memory(client: Client, urls: list[str]) -> None:
    for url in urls:
        first, second = await client.get(url), await client.get(url)
        assert first.status_code == second.status_code == 200
        assert (first.headers["x-cache"], second.headers["x-cache"]) == ("MISS", "HIT-L1")
        assert first.content == second.content


async def test_another_process_finds_the_answer_in_valkey(
    client: Client, urls: list[str], settings: Settings
) -> None:
    async with patient_app(settings) as app, client_of(app) as other:
        await settled(app)
        for url in urls:
            first = await client.get(url)
            found = await other.get(url, headers={"Accept-Encoding": "identity"})
            assert found.headers["x-cache"] == "HIT"
            assert found.content == first.content
            assert found.headers["etag"] == first.headers["etag"]
            assert await source(other, url) == "HIT-L1"


@pytest.mark.parametrize("control", ["no-cache", "No-Cache", "max-age=0", "foo, no-cache"])
async def test_no_cache_bypasses_the_memory(client: Client, urls: list[str], control: str) -> None:
    await client.get(urls[0])
    assert await source(client, urls[0], {"Cache-Control": control}) == "HIT"


async def test_no_store_bypasses_the_cache(
    client: Client, service: FastAPI, urls: list[str]
) -> None:
    for url in urls:
        past = await client.get(url, headers=NO_STORE)
        assert past.headers["x-cache"] == "BYPASS"
        assert not await stored(service)
        loaded = await client.get(url)
        assert loaded.headers["x-cache"] == "MISS"
        assert past.content == loaded.content
        assert past.headers["etag"] == loaded.headers["etag"]
        await cache_of(service).flush()
        await settled(service)


async def test_no_store_leaves_the_cache_unchanged(client: Client, urls: list[str]) -> None:
    await client.get(urls[0])
    await client.get(urls[0], headers=NO_STORE)
    assert await source(client, urls[0]) == "HIT-L1"


async def test_concurrent_requests_share_one_load(
    client: Client, service: FastAPI, urls: list[str]
) -> None:
    for url in urls:
        with recorded_statements(service.state.resources) as statements:
            answers = await asyncio.gather(*(client.get(url) for _ in range(100)))
        assert {answer.content for answer in answers} == {answers[0].content}
        assert len(statements) == 1


async def test_age_counts_from_the_last_validation(
    client: Client, urls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    for module in (memory, stored_response):
        monkeypatch.setattr(module, "time", clock)
    assert "age" not in (await client.get(urls[0])).headers
    for seconds, age in ((0.9, "0"), (6.6, "7")):
        clock.now += seconds
        assert (await client.get(urls[0])).headers["age"] == age
    for headers in (NO_CACHE, {}):
        assert (await client.get(urls[0], headers=headers)).headers["age"] == "0"
    assert "age" not in (await client.get(urls[0], headers=NO_STORE)).headers


async def test_cached_answers_may_be_stored_and_must_be_revalidated(
    client: Client, urls: list[str]
) -> None:
    for url in urls:
        for headers in ({}, {}, NO_CACHE, NO_STORE, GZIP):
            response = await client.get(url, headers=headers)
            assert response.headers.get_list("cache-control") == ["public, no-cache"]
            assert response.headers.get_list("vary") == ["accept-encoding"]
            assert response.headers.get_list("content-length") == [
                str(response.num_bytes_downloaded)
            ]
            assert len(response.headers.get_list("etag")) == 1
            assert len(response.headers.get_list("x-cache")) == 1
            assert response.headers.get_list("content-type") == ["application/json"]


@pytest.mark.parametrize(
    ("method", "url"),
    [
        ("GET", "/v1/users/me"),
        ("HEAD", "/v1/users/me"),
        ("GET", "/livez"),
        ("GET", "/readyz"),
        ("GET", "/docs"),
        ("GET", "/openapi.json"),
        ("GET", "/v1/nothing"),
        ("GET", "/test/notes/"),
        ("GET", "/test/notes/1/"),
        ("GET", "/TEST/notes"),
        ("GET", "//test/notes"),
        ("POST", "/test/notes"),
        ("PUT", "/test/notes"),
        ("OPTIONS", "/test/notes"),
        ("PATCH", "/test/notes/1"),
        ("DELETE", "/test/notes/1"),
    ],
)
async def test_other_requests_are_not_cached(
    client: Client, service: FastAPI, make: NoteFactory, method: str, url: str
) -> None:
    headers = make.headers(await make.user())
    for _ in range(2):
        response = await client.request(method, url, headers=headers)
        assert not {"x-cache", "age"} & response.headers.keys()
    # Only the account of the caller is cached. No path has its key.
    assert {key for key in await stored(service) if not key.startswith("account:")} == set()


# ETags


async def test_etag_is_strong_and_differs_for_different_bytes(
    client: Client, make: NoteFactory, urls: list[str]
) -> None:
    seen: dict[str, bytes] = {}
    for url in urls:
        response = await client.get(url)
        etag = response.headers["etag"]
        assert etag[0] == etag[-1] == '"'
        assert seen.setdefault(etag, response.content) == response.content


async def test_same_bytes_have_the_same_etag(
    client: Client, service: FastAPI, urls: list[str]
) -> None:
    before = [(await client.get(url)).headers["etag"] for url in urls]
    await cache_of(service).flush()
    assert [(await client.get(url)).headers["etag"] for url in urls] == before


NOT_MODIFIED = ["{etag}", "W/{etag}", '"a", {etag}', '"a,b",W/"c" , W/{etag}, "d"', "*", " * "]


@pytest.mark.parametrize("form", NOT_MODIFIED)
async def test_matching_etag_gets_304_without_a_body(
    client: Client, urls: list[str], form: str
) -> None:
    for url in urls:
        fresh = await client.get(url)
        headers = {"If-None-Match": form.format(etag=fresh.headers["etag"])}
        for control in ({}, NO_CACHE, NO_STORE):
            response = await client.get(url, headers=headers | control)
            assert response.status_code == 304
            assert response.content == b""
            for name in ("etag", "cache-control", "vary"):
                assert response.headers.get_list(name) == fresh.headers.get_list(name)
            about_a_body = {"content-length", "content-type", "content-encoding", "link"}
            assert not about_a_body & response.headers.keys()


async def test_first_request_can_get_304(client: Client, service: FastAPI, urls: list[str]) -> None:
    etag = (await client.get(urls[0])).headers["etag"]
    await cache_of(service).flush()
    response = await client.get(urls[0], headers={"If-None-Match": etag})
    assert (response.status_code, response.headers["x-cache"]) == (304, "MISS")
    assert (await client.get(urls[0])).status_code == 200


async def test_several_if_none_match_headers_are_one_list(client: Client, urls: list[str]) -> None:
    etag = (await client.get(urls[0])).headers["etag"]
    lines = [("If-None-Match", '"a"'), ("If-None-Match", etag), ("If-None-Match", '"b"')]
    assert (await client.get(urls[0], headers=lines)).status_code == 304


@pytest.mark.parametrize("form", ['"another"', "", "{bare}", "{upper}", "{gzip}", '"*"', "W/"])
async def test_another_etag_gets_the_whole_answer(
    client: Client, urls: list[str], form: str
) -> None:
    url = urls[2]
    fresh = await client.get(url)
    etag = fresh.headers["etag"]
    form = form.format(bare=etag[1:-1], upper=etag.upper(), gzip=etag[:-1] + '-gzip"')
    response = await client.get(url, headers={"If-None-Match": form})
    assert response.status_code == 200
    assert response.content == fresh.content


async def test_changed_answer_is_sent_whole(client: Client, make: NoteFactory) -> None:
    author = await make.user()
    note = await make.note(author)
    url = f"/test/notes/{note.id}"
    etag = (await client.get(url)).headers["etag"]
    await client.patch(url, json={"title": "New"}, headers=make.headers(author))
    response = await client.get(url, headers={"If-None-Match": etag})
    assert (response.status_code, response.json()["title"]) == (200, "New")
    assert response.headers["etag"] != etag


# Compression


async def test_compressed_answer_has_the_same_content_and_its_own_etag(
    client: Client, urls: list[str]
) -> None:
    for url in urls:
        plain = await client.get(url)
        for control in ({}, NO_CACHE, NO_STORE):
            async with client.stream("GET", url, headers=GZIP | control) as small:
                raw = b"".join([chunk async for chunk in small.aiter_raw()])
            assert small.headers["content-encoding"] == "gzip"
            assert gzip.decompress(raw) == plain.content
            assert len(raw) < len(plain.content)
            assert small.headers["content-length"] == str(len(raw))
            assert small.headers["etag"] == plain.headers["etag"][:-1] + '-gzip"'
            assert small.headers["vary"] == plain.headers["vary"] == "accept-encoding"
            assert small.headers.get("link") == plain.headers.get("link")
        assert "content-encoding" not in plain.headers


async def test_etag_of_the_compressed_answer_gets_304(client: Client, urls: list[str]) -> None:
    for url in urls:
        etag = (await client.get(url, headers=GZIP)).headers["etag"]
        for form in NOT_MODIFIED:
            for control in ({}, NO_CACHE, NO_STORE):
                headers = GZIP | control | {"If-None-Match": form.format(etag=etag)}
                response = await client.get(url, headers=headers)
                assert response.status_code == 304
                assert response.headers["etag"] == etag
                assert response.headers["vary"] == "accept-encoding"
                assert "content-encoding" not in response.headers


@pytest.mark.parametrize("form", [{}, GZIP])
async def test_etag_of_the_other_encoding_does_not_match(
    client: Client, urls: list[str], form: dict[str, str]
) -> None:
    other = {} if form else GZIP
    etag = (await client.get(urls[0], headers=other)).headers["etag"]
    response = await client.get(urls[0], headers=form | {"If-None-Match": etag})
    assert response.status_code == 200


@pytest.mark.parametrize("source_of", [{}, NO_CACHE, NO_STORE])
async def test_small_answer_is_not_compressed(
    client: Client, make: NoteFactory, source_of: dict[str, str]
) -> None:
    user = await make.user(bio="")
    for _ in range(2):
        response = await client.get(f"/v1/users/{user.id}", headers=GZIP | source_of)
        assert "content-encoding" not in response.headers
        assert not response.headers["etag"].endswith('-gzip"')
        assert response.headers["vary"] == "accept-encoding"


async def test_large_answer_is_compressed_in_a_thread(client: Client, make: NoteFactory) -> None:
    author = await make.user()
    for _ in range(4):
        note = await make.note(author, body=LONG * 10)
    assert len((await client.get("/test/notes")).content) > stored_response.LARGEST_ON_LOOP
    response = await client.get("/test/notes", headers=GZIP)
    assert response.headers["content-encoding"] == "gzip"
    assert response.json()["items"][0]["id"] == note.id


# HEAD


async def test_head_is_get_without_its_body(client: Client, urls: list[str]) -> None:
    for url in urls:
        for headers in ({}, GZIP):
            await client.get(url)
            got = await client.get(url, headers=headers)
            head = await client.head(url, headers=headers)
            assert (head.status_code, head.content) == (200, b"")
            ours = {"x-request-id", "age", "x-process-time"}
            assert {k: v for k, v in head.headers.items() if k not in ours} == {
                k: v for k, v in got.headers.items() if k not in ours
            }
            headers = headers | {"If-None-Match": got.headers["etag"]}
            assert (await client.head(url, headers=headers)).status_code == 304


async def test_answer_loaded_by_head_is_used_for_get(client: Client, urls: list[str]) -> None:
    for url in urls:
        head = await client.head(url)
        got = await client.get(url)
        assert (head.headers["x-cache"], got.headers["x-cache"]) == ("MISS", "HIT-L1")
        assert len(got.content) == int(head.headers["content-length"])


async def test_load_of_a_head_request_that_was_refused_is_still_that_of_a_get(
    client: Client, service: FastAPI, urls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests that came later wait for the same load, which may begin after the refusal."""
    loads: list[Load] = []

    async def read(_reader: Reader, _key: str, load: Load, *, skip_memory: bool) -> Answer:
        assert not skip_memory
        loads.append(load)
        raise CacheBusy("too slow")

    with monkeypatch.context() as patch:
        patch.setattr(Reader, "read", read)
        for url in urls:
            assert (await client.head(url)).status_code == 503
    for url, load in zip(urls, loads, strict=True):
        entry = await asyncio.ensure_future(load())
        assert decode(entry).plain.body == (await client.get(url)).content


@pytest.mark.parametrize(("times", "is_in_thread"), [(1, False), (10, True)])
async def test_only_a_large_answer_is_compressed_outside_of_the_event_loop(
    client: Client,
    make: NoteFactory,
    monkeypatch: pytest.MonkeyPatch,
    times: int,
    *,
    is_in_thread: bool,
) -> None:
    threads, compress = list[int](), gzip.compress

    def noted(*arguments: Any, **options: Any) -> bytes:
        threads.append(threading.get_ident())
        return compress(*arguments, **options)

    author = await make.user()
    for _ in range(4):
        await make.note(author, body=LONG * times)
    monkeypatch.setattr(gzip, "compress", noted)
    assert (await client.get("/test/notes", headers=GZIP)).status_code == 200
    assert [one != threading.get_ident() for one in threads] == [is_in_thread]
