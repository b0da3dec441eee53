"""Static files, byte ranges of them, and their errors."""

from pathlib import Path

import httpx2
import pytest
from fastapi import FastAPI

from app.infra.web.static_files import RangeFileResponse
from app.main import create_app
from app.settings import Settings
from tests.application import client_of

Client = httpx2.AsyncClient

ASSET = "/docs/assets/swagger-ui.css"

IGNORED = [
    *("items=0-1", "seconds=1-2", "items=", "Items=0-1", "byte=0-1", "bytes2=0-1", "items", ""),
    *("0-1", "=0-1", f"bytes={','.join(['0-0'] * 200)}"),
]
PARTS = {
    "bytes=0-1": slice(0, 2),
    "bytes=5-": slice(5, None),
    "bytes=-3": slice(-3, None),
    "BYTES=0-1": slice(0, 2),
    "bytes=0-999999999": slice(0, None),
}
REFUSED = {
    "bytes=999999999-": (416, "range_not_satisfiable"),
    "bytes=5-1": (400, "bad_request"),
    "bytes=a-b": (400, "bad_request"),
    "bytes=": (400, "bad_request"),
    "bytes": (400, "bad_request"),
}


@pytest.fixture
async def whole(client: Client) -> bytes:
    return (await client.get(ASSET)).content


@pytest.mark.parametrize("value", IGNORED)
async def test_range_of_another_unit_is_ignored(client: Client, whole: bytes, value: str) -> None:
    response = await client.get(ASSET, headers={"Range": value})
    assert (response.status_code, response.content) == (200, whole)
    assert "content-range" not in response.headers


@pytest.mark.parametrize("value", PARTS)
async def test_byte_range_is_answered(client: Client, whole: bytes, value: str) -> None:
    response = await client.get(ASSET, headers={"Range": value})
    assert (response.status_code, response.content) == (206, whole[PARTS[value]])
    assert response.headers["content-range"].startswith("bytes ")
    assert response.headers["content-range"].endswith(f"/{len(whole)}")


async def test_several_byte_ranges_are_answered(client: Client, whole: bytes) -> None:
    response = await client.get(ASSET, headers={"Range": "bytes=0-1,10-11"})
    assert response.status_code == 206
    assert response.headers["content-type"].startswith("multipart/byteranges")
    assert whole[10:12] in response.content


@pytest.mark.parametrize("value", REFUSED)
async def test_invalid_range_is_a_problem(client: Client, whole: bytes, value: str) -> None:
    status, code = REFUSED[value]
    response = await client.get(ASSET, headers={"Range": value})
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert (problem["status"], problem["code"], problem["instance"]) == (status, code, ASSET)
    assert problem["request_id"] == response.headers["x-request-id"]
    assert response.headers.get("content-range") == (
        f"bytes */{len(whole)}" if status == 416 else None
    )
    assert response.headers.get_list("cache-control") == ["private, no-store"]


@pytest.mark.parametrize("value", [*PARTS, *REFUSED, "items=0-1"])
async def test_range_of_a_head_request_is_ignored(client: Client, whole: bytes, value: str) -> None:
    response = await client.head(ASSET, headers={"Range": value})
    assert response.status_code == 200
    assert response.headers["content-length"] == str(len(whole))


async def test_unchanged_file_is_304(client: Client) -> None:
    first = await client.get(ASSET)
    again = await client.get(ASSET, headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    for response in (first, again):
        assert response.headers.get_list("cache-control") == ["public, no-cache"]


async def test_range_of_a_changed_file_returns_the_whole_file(client: Client, whole: bytes) -> None:
    asked = {"Range": "bytes=0-1", "If-Range": '"another"'}
    response = await client.get(ASSET, headers=asked)
    assert (response.status_code, response.content) == (200, whole)


@pytest.mark.parametrize("path", ["nothing.css", "../openapi.py", "%2e%2e/openapi.py", "a" * 300])
async def test_missing_file_is_a_problem(client: Client, path: str) -> None:
    response = await client.get(f"/docs/assets/{path}")
    assert response.status_code == 404
    assert response.headers["content-type"] == "application/problem+json"


async def test_route_can_send_a_file(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "file.txt").write_bytes(b"0123456789")
    app: FastAPI = create_app(settings)

    @app.get("/file")
    async def file() -> RangeFileResponse:
        return RangeFileResponse(tmp_path / "file.txt")

    async with client_of(app) as client:
        part = await client.get("/file", headers={"Range": "bytes=2-3"})
        assert (part.status_code, part.content) == (206, b"23")
        assert part.headers.get_list("cache-control") == ["private, no-store"]
        refused = await client.get("/file", headers={"Range": "bytes=20-"})
        assert (refused.status_code, refused.json()["code"]) == (416, "range_not_satisfiable")
        assert refused.headers["content-range"] == "bytes */10"
