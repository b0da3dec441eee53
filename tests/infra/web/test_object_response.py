"""An object of the store is sent whole, in ranges, or not at all (RFC 9110, §13 and §14)."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import httpx2
import pytest
from fastapi import APIRouter, Request, Response

from app.errors import Unavailable
from app.infra.dependencies import Resources
from app.infra.resources import ProcessResources
from app.infra.shutdown import server_shutdown
from app.infra.storage.store import ObjectStore
from app.infra.web.object_response import PIECE_BYTES, ObjectFile, object_response
from app.infra.web.server_error import ResponseCutOff
from app.settings import Settings
from tests.application import client_of, running
from tests.served import PATIENCE_SECONDS, served

Client = httpx2.AsyncClient

FILE = ObjectFile("test/file", '"one"', "text/plain", "private, max-age=9")
CONTENT = bytes(range(256)) * 2_500  # several pieces
SIZE = len(CONTENT)
router = APIRouter()


@router.get("/file")
async def file(request: Request, resources: Resources) -> Response:
    return await object_response(request, resources.objects, FILE, {"Content-Disposition": "x"})


@pytest.fixture(scope="module")
async def instance(settings: Settings) -> AsyncIterator[Client]:
    async with running(settings) as app:
        app.include_router(router)
        async with client_of(app) as client:
            yield client


@pytest.fixture
async def stored(resources: ProcessResources) -> AsyncIterator[None]:
    await resources.objects.put(FILE.key, CONTENT)
    yield
    await resources.objects.delete(FILE.key)


async def test_response_is_cut_off_when_the_store_fails_after_its_start(
    settings: Settings,
    stored: None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The client sees that the response is incomplete. It is no error of the service."""

    async def read(objects: ObjectStore, key: str, start: int, length: int) -> bytes | None:
        if start > 0:
            raise Unavailable("The store for files does not answer.")
        return await read_piece(objects, key, start, length)

    read_piece = ObjectStore.read
    monkeypatch.setattr(ObjectStore, "read", read)
    async with running(settings) as app:
        app.include_router(router)
        transport = httpx2.ASGITransport(app, raise_app_exceptions=True)
        async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
            with pytest.raises(ResponseCutOff):
                await client.get("/file")
    assert "A response was cut off: The store for files does not answer." in caplog.text
    assert "Unhandled exception" not in caplog.text


async def test_whole_object_is_sent(instance: Client, stored: None) -> None:
    response = await instance.get("/file")
    assert (response.status_code, response.content) == (200, CONTENT)
    assert response.headers["content-length"] == str(SIZE)
    assert response.headers["accept-ranges"] == "bytes"
    assert response.headers["etag"] == FILE.etag
    assert response.headers["cache-control"] == FILE.cache_control
    assert response.headers["content-disposition"] == "x"


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=5-9", 5, 9),
        ("bytes=0-", 0, SIZE - 1),
        ("bytes=100000-600000", 100_000, 600_000),
        ("bytes=-1", SIZE - 1, SIZE - 1),
        (f"bytes=-{10 * SIZE}", 0, SIZE - 1),
        (f"bytes={SIZE - 1}-{10 * SIZE}", SIZE - 1, SIZE - 1),
        ("BYTES=5-9", 5, 9),
    ],
)
async def test_range_is_sent(
    instance: Client, stored: None, asked: str, first: int, last: int
) -> None:
    response = await instance.get("/file", headers={"Range": asked})
    assert (response.status_code, response.content) == (206, CONTENT[first : last + 1])
    assert response.headers["content-range"] == f"bytes {first}-{last}/{SIZE}"
    assert response.headers["content-length"] == str(last + 1 - first)


@pytest.mark.parametrize("asked", [f"bytes={SIZE}-", f"bytes={SIZE}-{2 * SIZE}", "bytes=-0"])
async def test_range_outside_of_the_object_is_416(
    instance: Client, stored: None, asked: str
) -> None:
    response = await instance.get("/file", headers={"Range": asked})
    assert (response.status_code, response.json()["code"]) == (416, "range_not_satisfiable")
    assert response.headers["content-range"] == f"bytes */{SIZE}"
    assert response.headers["cache-control"] == "private, no-store"


@pytest.mark.parametrize(
    "asked", ["bytes=9-5", "bytes=-", "bytes=0-1,4-5", "lines=1-2", "bytes", "bytes=a-b", "x" * 99]
)
async def test_other_ranges_are_ignored(instance: Client, stored: None, asked: str) -> None:
    response = await instance.get("/file", headers={"Range": asked})
    assert (response.status_code, response.content) == (200, CONTENT)


@pytest.mark.parametrize(
    ("condition", "status"),
    [('"one"', 206), ('"two"', 200), ('W/"one"', 200), ("Sat, 28 Nov 2026 18:00:00 GMT", 200)],
)
async def test_range_belongs_to_a_version(
    instance: Client, stored: None, condition: str, status: int
) -> None:
    headers = {"Range": "bytes=5-9", "If-Range": condition}
    assert (await instance.get("/file", headers=headers)).status_code == status


@pytest.mark.parametrize("seen", ['"one"', 'W/"one"', "*", '"two", "one"'])
async def test_client_that_has_the_object_gets_304(
    instance: Client, stored: None, seen: str
) -> None:
    response = await instance.get("/file", headers={"If-None-Match": seen, "Range": "bytes=5-9"})
    assert (response.status_code, response.content) == (304, b"")
    assert response.headers["etag"] == FILE.etag
    assert response.headers["cache-control"] == FILE.cache_control


async def test_head_has_the_headers_of_the_whole_object(instance: Client, stored: None) -> None:
    response = await instance.head("/file", headers={"Range": "bytes=5-9"})
    assert (response.status_code, response.content) == (200, b"")
    assert response.headers["content-length"] == str(SIZE)


async def test_missing_object_is_404_whatever_the_client_has(instance: Client) -> None:
    for headers in ({}, {"If-None-Match": "*"}, {"Range": "bytes=0-1"}):
        response = await instance.get("/file", headers=headers)
        assert (response.status_code, response.json()["code"]) == (404, "not_found")
        assert response.headers["cache-control"] == "private, no-store"


@asynccontextmanager
async def download_during_shutdown(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, grace_seconds: float
) -> AsyncIterator[tuple[Client, asyncio.Event, httpx2.Response]]:
    """Yield the client of a service that shuts down, and a download that has begun.

    The store sends the others after the event is set.
    """
    more, read_piece = asyncio.Event(), ObjectStore.read

    async def read(objects: ObjectStore, key: str, start: int, length: int) -> bytes | None:
        if start >= PIECE_BYTES:
            await more.wait()
        return await read_piece(objects, key, start, length)

    monkeypatch.setattr(ObjectStore, "read", read)
    async with running(settings) as app, served(app, settings) as url:
        app.include_router(router)
        app.state.batch_limits = replace(app.state.batch_limits, grace_seconds=grace_seconds)
        async with (
            httpx2.AsyncClient(base_url=url, timeout=PATIENCE_SECONDS) as client,
            client.stream("GET", "/file") as response,
        ):
            server_shutdown.begin()
            yield client, more, response


async def test_download_goes_on_for_some_time_while_the_server_shuts_down(
    settings: Settings, stored: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutting_down = download_during_shutdown(settings, monkeypatch, grace_seconds=60)
    async with shutting_down as (client, more, response):
        new = await client.get("/file")
        assert (new.status_code, new.headers["retry-after"]) == (503, "1")
        assert new.json()["detail"] == "The server is shutting down."
        assert (await client.get("/file", headers={"Range": "bytes=0-9"})).content == CONTENT[:10]
        more.set()
        assert await response.aread() == CONTENT


async def test_download_is_then_cut_off_and_another_instance_has_the_rest(
    settings: Settings,
    instance: Client,
    stored: None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    content = b""
    shutting_down = download_during_shutdown(settings, monkeypatch, grace_seconds=0.1)
    async with shutting_down as (_, more, response):
        with pytest.raises(httpx2.RemoteProtocolError):
            async for piece in response.aiter_raw():
                content += piece
        more.set()
    assert 0 < len(content) < SIZE
    assert "A response was cut off: the server shuts down" in caplog.text
    headers = {"Range": f"bytes={len(content)}-", "If-Range": response.headers["etag"]}
    rest = await instance.get("/file", headers=headers)
    assert (rest.status_code, content + rest.content) == (206, CONTENT)


async def test_downloads_of_a_client_are_limited(
    settings: Settings, stored: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They end when the client has all of the file. What fits into one piece is no download."""
    more, read_piece = asyncio.Event(), ObjectStore.read
    downloads: list[asyncio.Task[httpx2.Response]] = []

    async def read(objects: ObjectStore, key: str, start: int, length: int) -> bytes | None:
        if start > 0:
            await more.wait()
        return await read_piece(objects, key, start, length)

    monkeypatch.setattr(ObjectStore, "read", read)
    values = {"downloads": 3, "downloads_per_client": 2}
    limits = settings.limits.model_copy(update=values)
    async with running(settings.model_copy(update={"limits": limits})) as app:
        app.include_router(router)
        async with (
            client_of(app) as client,
            httpx2.AsyncClient(
                transport=httpx2.ASGITransport(app, client=("192.0.2.9", 1)), base_url="http://test"
            ) as other,
        ):
            for _ in range(2):
                for taken, one in enumerate((client, client, other), start=1):
                    download = asyncio.create_task(one.get("/file"))
                    downloads.append(download)
                    while app.state.downloads.taken < taken:
                        await asyncio.sleep(0.01)
                own, full = await client.get("/file"), await other.get("/file")
                assert (own.status_code, own.json()["code"]) == (429, "rate_limited")
                assert own.headers["retry-after"] == "10"
                assert (full.status_code, full.headers["retry-after"]) == (503, "1")
                part = await client.get("/file", headers={"Range": "bytes=0-99"})
                assert (part.status_code, part.content) == (206, CONTENT[:100])
                more.set()
                assert {len((await one).content) for one in downloads} == {SIZE}
                more.clear()
