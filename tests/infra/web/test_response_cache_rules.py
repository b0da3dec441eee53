"""Answers that a shared cache may store (RFC 9111), and routes that break each rule."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import suppress
from contextvars import ContextVar
from itertools import count
from typing import Any

import httpx2
import pytest
from fastapi import APIRouter, FastAPI, HTTPException, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from app.errors import Forbidden, InvalidRequest, NotFound, Unavailable
from app.infra.dependencies import ReadSession
from app.infra.web.batch_response import BatchLimits, BatchResponse
from app.infra.web.cacheable import cacheable
from app.settings import Settings
from coherent_cache import shows
from tests.application import client_of
from tests.cached_app import (
    GZIP,
    NO_CACHE,
    NO_STORE,
    cache_of,
    patient_app,
    settled,
    stored,
)

Client = httpx2.AsyncClient
Answer = Callable[[str], Response]

NUMBER = count(1)


def with_header(name: str, value: str, status: int = 200) -> Answer:
    return lambda body: Response(body, status, {name: value}, media_type="text/plain")


def with_status(status: int) -> Answer:
    return lambda body: Response(body, status, media_type="text/plain")


def two_cookies(body: str) -> Response:
    response = Response(body)
    response.set_cookie("session", body)
    response.set_cookie("other", body)
    return response


def with_raw_header(name: bytes, value: bytes) -> Answer:
    """Pass Starlette a name that it does not put into lower case."""

    def answer(body: str) -> Response:
        response = Response(body, media_type="text/plain")
        response.raw_headers.append((name, value))
        return response

    return answer


def breaks_off(body: str) -> Response:
    async def chunks() -> AsyncIterator[str]:
        yield body
        raise ConnectionError

    return StreamingResponse(chunks())


def is_cut_off(body: str) -> Response:
    async def batches() -> AsyncGenerator[memoryview, None]:
        yield memoryview(body.encode())
        raise Unavailable("Later.")

    limits = BatchLimits(asyncio.Event(), grace_seconds=60, send_seconds=60)
    return BatchResponse(batches(), limits, headers={}, media_type="text/plain")


def fails(_: str) -> Response:
    raise RuntimeError


def refuses(error: Exception) -> Answer:
    def refuse(_: str) -> Response:
        raise error

    return refuse


# These may be stored.
KEPT = {
    "plain": with_status(200),
    "max-age": with_header("Cache-Control", "public, max-age=60"),
    "no-cache": with_header("Cache-Control", "no-cache"),
    "own-etag": with_header("ETag", '"mine"'),
}
# These are not stored: each request gets its own answer.
REFUSED = {
    "set-cookie": with_header("Set-Cookie", "session=1"),
    "two-cookies": two_cookies,
    "private": with_header("Cache-Control", "private"),
    "private-field": with_header("Cache-Control", 'private="x-name", max-age=60'),
    "no-store": with_header("Cache-Control", "no-store"),
    "capitals": with_header("Cache-Control", "max-age=60, PRIVATE"),
    "vary-authorization": with_header("Vary", "Authorization"),
    "vary-language": with_header("Vary", "accept-language"),
    "vary-everything": with_header("Vary", "*"),
    "partial": with_header("Content-Range", "bytes 0-1/9", 206),
    "partial-200": with_header("Content-Range", "bytes 0-1/9"),
    "two-lines": with_header("X-Name", "a\r\nSet-Cookie: session=1"),
    "chunked": with_header("Transfer-Encoding", "chunked"),
    "no-range": with_status(206),
    "encoded": with_header("Content-Encoding", "br"),
    "created": with_status(201),
    "accepted": with_status(202),
    "moved": with_header("Location", "/", 301),
    "found": with_header("Location", "/", 302),
    "bad": with_status(400),
    "unauthenticated": with_header("WWW-Authenticate", "Basic", 401),
    "forbidden": with_status(403),
    "missing": with_status(404),
    "gone": with_status(410),
    "error": with_status(500),
    "unavailable": with_header("Retry-After", "1", 503),
}
# Nor are these: the names of headers have no case.
CAPITALS = {
    "set-cookie-in-capitals": with_raw_header(b"Set-Cookie", b"session=1"),
    "no-store-in-capitals": with_raw_header(b"Cache-Control", b"no-store"),
}
# These are not stored either. All requests get the same problem.
PROBLEMS = {
    "problem-403": (refuses(Forbidden("No.")), 403),
    "problem-422": (refuses(InvalidRequest("No.")), 422),
    "problem-503": (refuses(Unavailable("Later.")), 503),
    "problem-500": (fails, 500),
    "problem-timeout": (refuses(TimeoutError()), 500),
    "broken-stream": (breaks_off, 500),
    "cut-off": (is_cut_off, 503),
}
LOGGED = {
    "problem-500": RuntimeError,
    "problem-timeout": TimeoutError,
    "broken-stream": ConnectionError,
}
ROUTES = APIRouter()
ANSWERS: dict[str, Answer] = {
    **KEPT,
    **REFUSED,
    **CAPITALS,
    **{kind: answer for kind, (answer, _) in PROBLEMS.items()},
}


@ROUTES.get("/own/shared")
@cacheable(shared_seconds=30)
async def shared(session: ReadSession) -> str:
    shows(session, "own")
    return str(next(NUMBER))


@ROUTES.get("/own/untagged")
@cacheable()
async def untagged(session: ReadSession) -> str:
    return str(next(NUMBER))


@ROUTES.get("/own/missing-problem")
@cacheable()
async def missing_problem(session: ReadSession) -> str:
    shows(session, "own")
    raise NotFound("No.")


@ROUTES.get("/own/asked")
@cacheable()
async def asked(request: Request, session: ReadSession) -> JSONResponse:
    shows(session, "own")
    seen = {
        "headers": dict(request.headers),
        "cookies": request.cookies,
        "client": request.client and list(request.client),
        "url": str(request.url),
        "base_url": str(request.base_url),
        "method": request.method,
        "body": (await request.body()).decode(),
        "scope": sorted(request.scope),
    }
    return JSONResponse(seen)


@ROUTES.get("/own/stream")
@cacheable()
async def stream(session: ReadSession) -> StreamingResponse:
    shows(session, "own")

    async def chunks() -> AsyncIterator[bytes]:
        for number in range(100):
            yield b"%d," % number

    return StreamingResponse(chunks(), media_type="text/plain")


@ROUTES.get("/own/echo/{name}")
@cacheable()
async def echo(name: str, session: ReadSession, more: str = "") -> list[str]:
    shows(session, "own")
    return [name, more]


@ROUTES.get("/own/missing-with-cookie")
@cacheable()
async def missing_with_cookie(session: ReadSession) -> None:
    shows(session, "own")
    raise HTTPException(404, headers={"Set-Cookie": f"session={next(NUMBER)}"})


@ROUTES.get("/own/{kind}")
@cacheable()
async def own(kind: str, session: ReadSession) -> Response:
    shows(session, "own")
    return ANSWERS[kind](str(next(NUMBER)))


@ROUTES.get("/not-declared")
async def not_declared(session: ReadSession) -> str:
    shows(session, "own")
    return str(next(NUMBER))


class CutOff(Response):
    """Sends less than its Content-Length."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-length", b"10")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"12345", "more_body": True})


tenant: ContextVar[str] = ContextVar("tenant", default="")


def surrounded(app: FastAPI, name: str) -> ASGIApp:
    """Wrap an application in a middleware that sets a tenant."""

    async def layer(scope: Scope, receive: Receive, send: Send) -> None:
        tenant.set(name)
        scope["state"] = {"tenant": name}
        await app(scope, receive, send)

    return layer


@ROUTES.get("/surroundings")
@cacheable()
async def surroundings(request: Request, session: ReadSession) -> list[Any]:
    shows(session, "own")
    return [tenant.get(), request.state._state]


@ROUTES.get("/cut-off")
@cacheable()
async def cut_off(session: ReadSession) -> Response:
    shows(session, "own")
    return CutOff()


@pytest.fixture(scope="module")
async def service(settings: Settings) -> AsyncIterator[FastAPI]:
    """The application, with cached routes that break the rules."""
    async with patient_app(settings) as app:
        app.router.routes.extend(ROUTES.routes)
        yield app


@pytest.fixture
async def client(service: FastAPI, clean: None) -> AsyncIterator[Client]:
    await settled(service)
    async with client_of(service) as client:
        del client.headers["accept-encoding"]
        yield client


@pytest.mark.parametrize("kind", KEPT)
async def test_storable_answer_is_cached(client: Client, service: FastAPI, kind: str) -> None:
    answers = [await client.get(f"/own/{kind}") for _ in range(3)]
    assert [answer.headers["x-cache"] for answer in answers] == ["MISS", "HIT-L1", "HIT-L1"]
    assert len({answer.content for answer in answers}) == 1
    assert await stored(service) == {f"/own/{kind}?"}


@pytest.mark.parametrize("kind", [*REFUSED, *CAPITALS])
async def test_unstorable_answer_is_made_anew_for_each_request(
    client: Client, service: FastAPI, kind: str
) -> None:
    one_by_one = [await client.get(f"/own/{kind}") for _ in range(3)]
    at_once = await asyncio.gather(*(client.get(f"/own/{kind}") for _ in range(20)))
    bodies = [answer.content for answer in [*one_by_one, *at_once]]
    assert len(set(bodies)) == len(bodies)
    assert not await stored(service)
    assert cache_of(service).memory.bytes_held == 0
    for answer in [*one_by_one, *at_once]:
        assert answer.headers["x-cache"] == "BYPASS"
        assert "age" not in answer.headers


@pytest.mark.parametrize("kind", REFUSED)
async def test_unstorable_answer_is_sent_unchanged(client: Client, kind: str) -> None:
    answer = await client.get(f"/own/{kind}", headers=GZIP | {"If-None-Match": "*"})
    expected = ANSWERS[kind](answer.text)
    assert answer.status_code == expected.status_code
    sent = [header for header in answer.headers.multi_items() if header[0] not in OURS]
    expected.headers.setdefault("cache-control", "private, no-store")
    meant = [(name.decode(), value.decode()) for name, value in expected.raw_headers]
    assert sorted(sent) == sorted(meant)


async def test_every_cookie_is_sent(client: Client) -> None:
    answer = await client.get("/own/two-cookies")
    assert len(answer.headers.get_list("set-cookie")) == 2


@pytest.mark.parametrize("kind", PROBLEMS)
async def test_failure_is_not_cached(client: Client, service: FastAPI, kind: str) -> None:
    status = PROBLEMS[kind][1]
    for number in range(3):
        asked = {"X-Request-ID": f"request-{number}"}
        answer = await client.get(f"/own/{kind}", headers=asked)
        assert answer.status_code == status
        assert answer.json()["request_id"] == f"request-{number}"
        assert answer.headers.get_list("cache-control") == ["private, no-store"]
        assert answer.headers.get_list("content-length") == [str(len(answer.content))]
    assert not await stored(service)
    assert cache_of(service).memory.bytes_held == 0


@pytest.mark.parametrize("kind", PROBLEMS)
async def test_failure_has_the_id_of_its_own_request(client: Client, kind: str) -> None:
    asked = [{"X-Request-ID": f"request-{number}"} for number in range(20)]
    answers = await asyncio.gather(
        *(client.get(f"/own/{kind}", headers=headers) for headers in asked)
    )
    assert [answer.json()["request_id"] for answer in answers] == [
        headers["X-Request-ID"] for headers in asked
    ]


async def test_problem_keeps_its_headers(client: Client) -> None:
    for control in ({}, NO_STORE):
        answer = await client.get("/own/problem-503", headers=control)
        assert answer.headers["retry-after"] == "1"


async def test_finished_stream_is_complete(client: Client) -> None:
    for control in ({}, NO_CACHE, NO_STORE):
        answer = await client.get("/own/stream", headers=control)
        assert answer.text == "".join(f"{number}," for number in range(100))
        assert answer.headers["content-length"] == str(len(answer.content))


async def test_interrupted_answer_is_not_cached(client: Client, service: FastAPI) -> None:
    with suppress(AssertionError):  # of the transport, which waits for the rest
        await client.get("/cut-off")
    assert not await stored(service)


async def test_answer_without_tags_is_not_cached(
    client: Client, service: FastAPI, caplog: pytest.LogCaptureFixture
) -> None:
    answers = [await client.get("/own/untagged") for _ in range(2)]
    assert answers[0].content != answers[1].content
    assert [answer.headers["x-cache"] for answer in answers] == ["BYPASS", "BYPASS"]
    assert not await stored(service)
    assert "passed no tag to shows()" in caplog.text


async def test_route_that_is_not_cacheable_is_not_cached(client: Client, service: FastAPI) -> None:
    answers = [await client.get("/not-declared") for _ in range(2)]
    assert answers[0].content != answers[1].content
    assert not any("x-cache" in answer.headers for answer in answers)
    assert not await stored(service)


async def test_route_can_allow_shared_caches_to_answer(client: Client) -> None:
    for control in ({}, {}, NO_CACHE, NO_STORE):
        answer = await client.get("/own/shared", headers=control)
        assert answer.headers.get_list("cache-control") == ["public, max-age=0, s-maxage=30"]
        headers = control | {"If-None-Match": answer.headers["etag"]}
        if control is not NO_STORE:
            again = await client.get("/own/shared", headers=headers)
            assert again.status_code == 304
            assert again.headers["cache-control"] == answer.headers["cache-control"]


async def test_declaration_overrides_the_cache_control_of_the_endpoint(
    client: Client,
) -> None:
    for control in ({}, {}, NO_STORE):
        answer = await client.get("/own/max-age", headers=control)
        assert answer.headers.get_list("cache-control") == ["public, no-cache"]


async def test_etag_of_the_endpoint_is_used(client: Client) -> None:
    for control in ({}, {}, NO_CACHE, NO_STORE):
        answer = await client.get("/own/own-etag", headers=control)
        assert answer.headers.get_list("etag") == ['"mine"']


OURS = {
    *("x-cache", "x-request-id", "x-process-time"),
    *("x-content-type-options", "referrer-policy", "ratelimit", "ratelimit-policy"),
}
REQUESTER = {
    "Authorization": "Bearer of-the-requester",
    "Cookie": "session=of-the-requester",
    "User-Agent": "of-the-requester",
    "Accept-Language": "of-the-requester",
    "Accept": "of-the-requester",
    "X-Forwarded-For": "of-the-requester",
    "X-Forwarded-Host": "of-the-requester",
    "X-Request-ID": "of-the-requester",
    "Forwarded": "host=of-the-requester",
    "Host": "of-the-requester",
    "Origin": "https://of-the-requester",
    "Range": "bytes=0-1",
    "If-Modified-Since": "Thu, 01 Jan 2026 00:00:00 GMT",
    "If-None-Match": '"of-the-requester"',
    "Accept-Encoding": "gzip, of-the-requester",
}


async def test_cached_answer_contains_nothing_of_the_request(
    client: Client, service: FastAPI
) -> None:
    mine = await client.get("https://test/own/asked", headers=REQUESTER)
    assert (mine.status_code, mine.headers["x-cache"]) == (200, "MISS")
    seen = mine.json()
    assert (seen["headers"], seen["cookies"], seen["client"]) == ({}, {}, None)
    assert seen["body"] == ""
    assert seen["url"].startswith("http://")
    assert "of-the-requester" not in mine.text
    yours = await client.get("/own/asked")
    assert (yours.content, yours.headers["x-cache"]) == (mine.content, "HIT-L1")
    store = cache_of(service).store
    async for key in store._valkey.scan_iter(f"{store.prefix}*"):
        if await store._valkey.type(key) == b"string":
            assert b"of-the-requester" not in (await store._valkey.get(key) or b"")


# The address that is sent, and the arguments that the endpoint gets.
ODD_PATHS = {
    "/own/echo/a%3Fmore=b": ["a?more=b", ""],
    "/own/echo/a%3Fmore=b?more=c": ["a?more=b", "c"],
    "/own/echo/a%3F": ["a?", ""],
    "/own/echo/a%0A": ["a\n", ""],
    "/own/echo/a%20": ["a ", ""],
    "/own/echo/a%26": ["a&", ""],
    "/own/echo/%C3%A4": ["ä", ""],
    "/own/echo/a%25": ["a%", ""],
}


@pytest.mark.parametrize("path", ODD_PATHS)
async def test_ambiguous_path_bypasses_the_cache(
    client: Client, service: FastAPI, path: str
) -> None:
    for _ in range(2):
        odd = await client.get(path)
        assert (odd.json(), odd.headers["x-cache"]) == (ODD_PATHS[path], "BYPASS")
        assert not await stored(service)
    plain = {"/own/echo/a": ["a", ""], "/own/echo/a?more=b": ["a", "b"]}
    for _ in range(2):
        assert {url: (await client.get(url)).json() for url in plain} == plain
        assert (await client.get(path)).json() == ODD_PATHS[path]


async def test_body_of_a_get_request_is_ignored(client: Client) -> None:
    mine = await client.request("GET", "/own/asked", content=b"of-the-requester")
    assert mine.json()["body"] == ""


async def test_range_request_gets_the_whole_answer(client: Client) -> None:
    for _ in range(2):
        answer = await client.get("/own/stream", headers={"Range": "bytes=0-1"})
        assert answer.status_code == 200
        assert "content-range" not in answer.headers


async def test_cached_problem_has_the_id_of_its_own_request(client: Client) -> None:
    for source in ("MISS", "HIT-L1"):
        answer = await client.get("/own/missing-problem", headers=REQUESTER)
        assert answer.headers["x-cache"] == source
        assert answer.json() == {
            "type": "about:blank",
            "title": "Not Found",
            "status": 404,
            "detail": "No.",
            "code": "not_found",
            "instance": "/own/missing-problem",
            "request_id": "of-the-requester",
        }


async def test_context_of_the_first_request_is_not_in_the_cached_answer(
    service: FastAPI, clean: None
) -> None:
    await settled(service)
    seen = []
    for name in ("alice", "bob"):
        async with client_of(surrounded(service, name)) as client:
            answer = await client.get("/surroundings")
            seen.append((answer.headers["x-cache"], answer.json()))
    assert seen == [("MISS", ["", {}]), ("HIT-L1", ["", {}])]


async def test_problem_with_a_cookie_is_made_anew_for_each_request(
    client: Client, service: FastAPI
) -> None:
    url = "/own/missing-with-cookie"
    answers = [await client.get(url) for _ in range(2)]
    answers += await asyncio.gather(*(client.get(url) for _ in range(20)))
    assert {answer.status_code for answer in answers} == {404}
    assert len({answer.headers["set-cookie"] for answer in answers}) == len(answers)
    assert not await stored(service)


@pytest.mark.parametrize("kind", PROBLEMS)
async def test_failure_is_the_same_for_a_request_that_bypasses_the_cache(
    client: Client, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    answer = await client.get(f"/own/{kind}", headers=NO_STORE)
    assert answer.status_code == PROBLEMS[kind][1]
    assert answer.json()["request_id"] == answer.headers["x-request-id"]
    logged = [
        one.exc_info and one.exc_info[0]
        for one in caplog.records
        if one.getMessage() == "Unhandled exception"
    ]
    assert logged == ([LOGGED[kind]] if kind in LOGGED else [])
