"""Errors are problems (RFC 9457), and repeat nothing that they should not."""

import asyncio
import re
from collections.abc import AsyncIterator

import httpx2
import pytest
import uvicorn
from fastapi import FastAPI, Request
from starlette.types import Message, Scope

from app.settings import Settings
from tests.application import client_of, running
from tests.sample.factory import NoteFactory

Client = httpx2.AsyncClient
SECRET = "hunter2-hunter2"
# RFC 9457, §4.2.1: the title of a problem without a type is the phrase of its status (RFC 9110).
TITLES = {
    401: "Unauthorized",
    404: "Not Found",
    405: "Method Not Allowed",
    422: "Unprocessable Content",
    500: "Internal Server Error",
}


@pytest.fixture
async def broken(settings: Settings) -> AsyncIterator[FastAPI]:
    """The application with a route that fails, before or after its response began."""
    async with running(settings) as app:

        @app.get("/broken")
        async def broken() -> None:
            raise RuntimeError(SECRET)

        yield app


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "not_found"),
        ("GET", "/test/notes/", 404, "not_found"),
        ("GET", "/test/notes/1", 404, "not_found"),
        ("PUT", "/test/notes", 405, "method_not_allowed"),
        ("POST", "/v1/users", 422, "invalid_request"),
        ("GET", "/v1/users/me", 401, "unauthenticated"),
        ("GET", "/broken", 500, "internal_error"),
    ],
)
async def test_every_error_is_a_problem(
    broken: FastAPI, clean: None, method: str, path: str, status: int, code: str
) -> None:
    async with client_of(broken) as client:
        response = await client.request(method, path)
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    members = {"type", "title", "status", "detail", "code", "instance", "request_id"}
    assert members <= set(problem) <= {*members, "errors"}
    assert (problem["status"], problem["code"], problem["instance"]) == (status, code, path)
    assert problem["request_id"] == response.headers["x-request-id"]
    assert (problem["type"], problem["title"]) == ("about:blank", TITLES[status])
    assert re.fullmatch(r"[A-Z].{10,}\.", problem["detail"])  # a sentence
    assert SECRET not in response.text


@pytest.mark.parametrize(
    "content",
    [
        b'{"email": "hunter2-hunter2", "name": "n", "password": "hunter2"}',
        b'{"email": "a@hunter2-hunter2<>", "name": ["hunter2-hunter2"], "password": NaN}',
        b'{"email": "\\ud800hunter2-hunter2", "name": "\\ud800", "password": "\\u0000"}',
        b'{"hunter2-hunter2\\ud800": 1}',
        b'{"hunter2-hunter2": 1}',
        b'{"hunter2-hunter2',
        b"\xff\xfe",
        b"[1e400]",
    ],
)
async def test_a_422_does_not_repeat_its_input(client: Client, content: bytes) -> None:
    response = await client.post(
        "/v1/users", content=content, headers={"Content-Type": "application/json"}
    )
    assert response.status_code in (400, 422)
    assert SECRET not in response.text
    for error in response.json().get("errors", []):
        assert set(error) == {"loc", "msg", "type"}


@pytest.mark.parametrize(("fields", "status"), [(300, 422), (10_000, 413)])
async def test_many_unknown_fields_make_no_large_answer(
    client: Client, fields: int, status: int
) -> None:
    response = await client.post("/v1/users", json={f"{SECRET}{i}": 1 for i in range(fields)})
    assert response.status_code == status
    assert SECRET not in response.text
    assert len(response.content) < 5_000


@pytest.mark.parametrize("media_type", ["text/plain", "application/xml", "", "application/json2"])
async def test_a_body_of_another_type_is_415(client: Client, media_type: str) -> None:
    for path in ("/v1/users", "/v1/auth/token"):
        response = await client.post(path, content=b"x", headers={"Content-Type": media_type})
        assert response.status_code == 415
        assert response.json()["code"] == "unsupported_media_type"


async def test_after_an_unhandled_exception_the_connection_serves_on(broken: FastAPI) -> None:
    config = uvicorn.Config(broken, port=0, lifespan="off", log_level="error")
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for _ in range(20):
        for path, status in ((b"/broken", b"500"), (b"/livez", b"200")):
            writer.write(b"GET " + path + b" HTTP/1.1\r\nHost: test\r\n\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.split()[1] == status
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
    writer.close()
    server.should_exit = True
    await serving


async def test_a_response_that_began_is_not_made_to_look_complete(settings: Settings) -> None:
    from starlette.responses import StreamingResponse

    async def chunks() -> AsyncIterator[bytes]:
        yield b"half"
        raise RuntimeError(SECRET)

    async with running(settings) as app:

        @app.get("/half")
        async def half() -> StreamingResponse:
            return StreamingResponse(chunks())

        transport = httpx2.ASGITransport(app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
            with pytest.raises(RuntimeError):
                await client.get("/half")


async def test_a_route_that_is_cancelled_after_it_called_the_application_is_answered(
    settings: Settings,
) -> None:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def discard(_message: Message) -> None: ...

    async def send(message: Message) -> None:
        sent.append(message)

    async with running(settings) as app:

        @app.get("/calls")
        async def calls(request: Request) -> None:
            inner = {**request.scope, "path": "/livez", "raw_path": b"/livez"}
            await app(inner, request.receive, discard)
            raise asyncio.CancelledError

        scope: Scope = {"type": "http", "method": "GET", "path": "/calls", "raw_path": b"/calls"}
        scope.update({"query_string": b"", "headers": [], "scheme": "http", "http_version": "1.1"})
        with pytest.raises(asyncio.CancelledError):
            await app(scope, receive, send)
    assert [message.get("status") for message in sent] == [503, None]


@pytest.mark.parametrize("given", ["abcdefgh", "A.b-c_0123456789", "x" * 64])
async def test_a_harmless_request_id_is_kept(client: Client, given: str) -> None:
    response = await client.get("/nowhere", headers={"X-Request-ID": given})
    assert response.headers["x-request-id"] == response.json()["request_id"] == given


@pytest.mark.parametrize("given", ["short", "x" * 65, "with space", 'quote"quote', "a,b,c,d,e", ""])
async def test_any_other_request_id_is_replaced(client: Client, given: str) -> None:
    response = await client.get("/livez", headers={"X-Request-ID": given})
    assert response.headers["x-request-id"] != given
    assert len(response.headers["x-request-id"]) == 32


async def test_requests_have_different_ids(client: Client, make: NoteFactory) -> None:
    ids = {(await client.get("/livez")).headers["x-request-id"] for _ in range(10)}
    assert len(ids) == 10
