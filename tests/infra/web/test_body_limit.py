"""The whole body is read before a request is run, and its size is limited."""

import asyncio
import http.client
import json
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
from fastapi import Request
from starlette.requests import ClientDisconnect

from app.errors import Unavailable
from app.infra.web.body_budget import FREE_BYTES, READ_AT_ONCE, BodyBudget
from app.infra.web.upload import read_upload
from app.settings import Settings
from tests.application import client_of, running
from tests.contract.serving import serve

LIMIT = 2_000
POST = "POST /v1/users HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"


@pytest.fixture
def limited(settings: Settings) -> Settings:
    limits = settings.limits.model_copy(update={"body_bytes": LIMIT})
    return settings.model_copy(update={"limits": limits})


@pytest.fixture
def connection(limited: Settings, clean: None) -> Iterator[http.client.HTTPConnection]:
    """A connection to a server with a small limit."""
    with serve(limited) as served:
        connection = http.client.HTTPConnection(urlsplit(served.url).netloc, timeout=60)
        connection.connect()
        yield connection
        connection.close()


def user(size: int) -> bytes:
    """Return a valid body of this size."""
    content = {"email": "ann@example.com", "name": "Ann", "password": "a password"}
    return json.dumps(content).encode().ljust(size)


def send(connection: http.client.HTTPConnection, head: str, body: bytes) -> tuple[int, str]:
    """Send a request, and read the answer."""
    connection.sock.sendall(f"{POST}{head}\r\n".encode() + body)
    return read(connection)


def read(connection: http.client.HTTPConnection) -> tuple[int, str]:
    response = http.client.HTTPResponse(connection.sock, method="POST")
    with response:
        response.begin()
        problem = json.loads(response.read())
    assert response.headers["content-type"] in ("application/problem+json", "application/json")
    return response.status, problem.get("code", "")


TOO_LARGE = (413, "too_large")


def test_a_body_up_to_the_limit_is_taken(connection: http.client.HTTPConnection) -> None:
    assert send(connection, f"Content-Length: {LIMIT}\r\n", user(LIMIT))[0] == 201


def test_a_declared_length_is_refused_before_anything_is_sent(
    connection: http.client.HTTPConnection,
) -> None:
    assert send(connection, f"Content-Length: {LIMIT + 1}\r\n", b"") == TOO_LARGE


def test_chunks_are_refused_as_soon_as_they_are_too_many(
    connection: http.client.HTTPConnection,
) -> None:
    chunks = b"3e8\r\n" + b" " * 1_000 + b"\r\n"
    assert send(connection, "Transfer-Encoding: chunked\r\n", 3 * chunks) == TOO_LARGE


def test_the_next_request_of_the_connection_is_answered(
    connection: http.client.HTTPConnection,
) -> None:
    length = LIMIT + 1
    assert send(connection, f"Content-Length: {length}\r\n", b"") == TOO_LARGE
    connection.sock.sendall(b" " * length)
    connection.sock.sendall(f"{POST}Content-Length: {LIMIT}\r\n\r\n".encode() + user(LIMIT))
    assert read(connection)[0] == 201


def test_too_large_body_with_expect_is_refused_without_100_continue(
    connection: http.client.HTTPConnection,
) -> None:
    head = f"Expect: 100-continue\r\nContent-Length: {LIMIT + 1}\r\n"
    assert send(connection, head, b"") == TOO_LARGE
    assert connection.sock.recv(1) == b""


def test_bytes_after_the_declared_length_are_ignored(
    connection: http.client.HTTPConnection,
) -> None:
    body = user(100)
    assert send(connection, "Content-Length: 100\r\n", body + b"x" * 5_000)[0] == 201
    assert connection.sock.recv(1) == b""


@pytest.mark.parametrize("size", [LIMIT + 1, 100_000])
async def test_body_without_a_length_is_counted(limited: Settings, size: int) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(0, size, 1_000):
            yield b" " * 1_000

    async with running(limited) as app, client_of(app) as client:
        for headers in ({}, {"Content-Length": "10"}):
            response = await client.post("/v1/users", content=pieces(), headers=headers)
            assert (response.status_code, response.json()["code"]) == TOO_LARGE


async def test_half_a_body_reaches_no_route(settings: Settings) -> None:
    received: list[bytes] = []
    messages: Iterator[dict[str, Any]] = iter(
        [
            {"type": "http.request", "body": b"[1]", "more_body": True},
            {"type": "http.disconnect"},
        ]
    )

    async def receive() -> dict[str, Any]:
        return next(messages)

    async def send(_message: Any) -> None: ...

    async with running(settings) as app:

        @app.post("/half")
        async def half(request: Request) -> None:
            received.append(await request.body())

        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": "/half",
            "raw_path": b"/half",
            "root_path": "",
            "query_string": b"",
            "headers": [(b"host", b"test"), (b"content-length", b"100")],
            "client": ("203.0.113.9", 1),
            "server": ("test", 80),
        }
        with suppress(ClientDisconnect):
            await app(scope, receive, send)
    assert received == []


async def test_slow_client_takes_no_slot(limited: Settings) -> None:
    forever = asyncio.Event()

    async def pieces() -> AsyncIterator[bytes]:
        yield b"{"
        await forever.wait()

    async with running(limited) as app, client_of(app) as client:
        slow = asyncio.create_task(client.post("/v1/users", content=pieces()))
        await asyncio.sleep(0.05)
        places = app.state.concurrency_limiter
        assert (places.running, places.queued) == (0, 0)
        forever.set()
        assert isinstance(await slow, httpx2.Response)


MIB = 1024 * 1024


@pytest.fixture
async def uploads(settings: Settings) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of a service with a route for uploads of 4 MiB, and a budget of 7 MiB."""
    limits = settings.limits.model_copy(update={"body_bytes": LIMIT, "upload_bytes": 7 * MIB})
    async with running(settings.model_copy(update={"limits": limits})) as app:

        @app.post("/uploads", max_body_size=4 * MIB)
        async def upload(request: Request) -> int:
            await asyncio.sleep(0.1)
            return len(await request.body())

        async with client_of(app) as client:
            yield client


async def test_upload_may_be_larger_than_other_bodies(uploads: httpx2.AsyncClient) -> None:
    for size, status in ((1, 200), (4 * MIB, 200), (4 * MIB + 1, 413)):
        response = await uploads.post("/uploads", content=b" " * size)
        assert response.status_code == status


async def test_uploads_share_a_budget(uploads: httpx2.AsyncClient) -> None:
    """Each upload takes what it has beyond 64 KiB, until its response has ended."""
    for _ in range(2):
        answers = await asyncio.gather(
            *(uploads.post("/uploads", content=b" " * 4 * MIB) for _ in range(3)),
            *(uploads.post("/uploads", content=b" " * MIB) for _ in range(3)),
        )
        large, small = answers[:3], answers[3:]
        assert sorted(answer.status_code for answer in large) == [200, 503, 503]
        assert {answer.status_code for answer in small} == {200}
        refused = next(answer for answer in large if answer.status_code == 503)
        assert refused.headers["retry-after"] == "1"


async def test_few_uploads_run_at_the_same_time(settings: Settings) -> None:
    limits = settings.limits.model_copy(update={"uploads": 2})
    async with running(settings.model_copy(update={"limits": limits})) as app:
        leave = asyncio.Event()

        @app.post("/uploads", max_body_size=4 * MIB)
        async def upload(request: Request) -> None:
            await leave.wait()

        async with client_of(app) as client:
            for _ in range(2):
                waiting = [asyncio.create_task(client.post("/uploads", content=b"1")) for _ in "12"]
                while app.state.concurrency_limiter.running < 2:
                    await asyncio.sleep(0.01)
                refused = await client.post("/uploads", content=b"1")
                assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
                leave.set()
                assert {answer.status_code for answer in await asyncio.gather(*waiting)} == {200}
                leave.clear()


async def test_upload_is_refused_if_others_took_all_places_while_it_was_read(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.infra.web.body_budget.SILENCE_SECONDS", 60)
    limits = settings.limits.model_copy(update={"uploads": 1})
    async with running(settings.model_copy(update={"limits": limits})) as app:
        being_read, rest = asyncio.Semaphore(0), asyncio.Event()
        runs, leave = list[None](), asyncio.Event()

        @app.post("/uploads", max_body_size=4 * MIB)
        async def upload(request: Request) -> None:
            runs.append(None)
            if len(runs) == 2:  # both would run at the same time
                leave.set()
            await leave.wait()

        async def slow() -> AsyncIterator[bytes]:
            being_read.release()
            await rest.wait()
            yield b" "

        async with client_of(app) as client, asyncio.timeout(60):
            sent = []
            for _ in range(2):
                sent.append(asyncio.create_task(client.post("/uploads", content=slow())))
                await being_read.acquire()
            rest.set()
            await asyncio.wait(sent, return_when=asyncio.FIRST_COMPLETED)
            leave.set()
            answers = await asyncio.gather(*sent)
            assert sorted(answer.status_code for answer in answers) == [200, 503]
            assert len(runs) == 1
            assert (await client.post("/uploads", content=b" ")).status_code == 200


async def test_few_uploads_are_read_at_the_same_time(
    uploads: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.infra.web.body_budget.PAUSE_SECONDS", 60)
    monkeypatch.setattr("app.infra.web.body_budget.TURN_SECONDS", 60)
    readers, most = 0, 0

    async def pieces() -> AsyncIterator[bytes]:
        nonlocal readers, most
        readers += 1
        most = max(most, readers)
        for _ in range(20):  # the others have time to begin
            await asyncio.sleep(0)
        readers -= 1
        yield b" "

    answers = await asyncio.gather(
        *(uploads.post("/uploads", content=pieces()) for _ in range(3 * READ_AT_ONCE))
    )
    assert {answer.status_code for answer in answers} == {200}
    assert most == READ_AT_ONCE


async def test_upload_that_finds_no_place_is_refused_without_waiting_for_a_turn() -> None:
    budget = BodyBudget(uploads=1, spare_bytes=0)
    for _ in range(READ_AT_ONCE):
        await budget.wait_for_turn()
    budget.places = 0
    waiting = asyncio.ensure_future(budget.wait_for_turn())
    await asyncio.sleep(0)
    assert waiting.done()
    assert isinstance(waiting.exception(), Unavailable)


async def test_upload_that_breaks_off_gives_its_bytes_back(uploads: httpx2.AsyncClient) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b" " * 4 * MIB
        raise OSError("This was raised on purpose.")

    for _ in range(5):
        assert (await uploads.post("/uploads", content=broken())).is_error
    assert (await uploads.post("/uploads", content=b" " * 4 * MIB)).status_code == 200


async def test_clients_that_send_slowly_do_not_keep_others_from_uploading(
    uploads: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.infra.web.body_budget.TURN_SECONDS", 0.5)
    forever = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b" "
        await forever.wait()

    sending = [asyncio.create_task(uploads.post("/uploads", content=slow())) for _ in range(6)]
    await asyncio.sleep(0.1)
    while (await uploads.post("/uploads", content=b" ")).status_code != 200:
        await asyncio.sleep(0.1)
    forever.set()
    assert 200 in {answer.status_code for answer in await asyncio.gather(*sending)}
    answers = await asyncio.gather(*(uploads.post("/uploads", content=b" ") for _ in range(6)))
    assert {answer.status_code for answer in answers} == {200}


async def test_uploads_that_send_nothing_end_and_give_everything_back(
    uploads: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has taken all bytes of the budget but some before it stops."""
    monkeypatch.setattr("app.infra.web.body_budget.SILENCE_SECONDS", 0.5)

    async def stops() -> AsyncIterator[bytes]:
        yield b" " * (4 * MIB - 1)
        await asyncio.Event().wait()

    async def sends_nothing() -> AsyncIterator[bytes]:
        await asyncio.Event().wait()
        yield b""

    for content in (stops, sends_nothing):
        silent = await asyncio.gather(
            *(uploads.post("/uploads", content=content()) for _ in range(6))
        )
        assert {answer.status_code for answer in silent} <= {408, 503}
        ended = next(answer for answer in silent if answer.status_code == 408)
        assert ended.json()["code"] == "request_timeout"
        assert ended.headers["connection"] == "close"
        answer = await uploads.post("/uploads", content=b" " * 4 * MIB)
        assert answer.status_code == 200


async def test_silent_uploads_lose_their_turn_before_they_end(
    uploads: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With their turns kept, the others would wait for longer than they may."""
    monkeypatch.setattr("app.infra.web.body_budget.PAUSE_SECONDS", 0.01)

    async def sends_nothing() -> AsyncIterator[bytes]:
        await asyncio.Event().wait()
        yield b""

    silent = [
        asyncio.create_task(uploads.post("/uploads", content=sends_nothing())) for _ in range(8)
    ]
    await asyncio.sleep(0)
    assert (await uploads.post("/uploads", content=b" ")).status_code == 200
    for upload in silent:
        assert not upload.done()
        upload.cancel()


async def test_uploads_beyond_those_that_may_wait_are_refused_before_valkey_is_asked(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.infra.web.body_budget.PAUSE_SECONDS", 60)
    monkeypatch.setattr("app.infra.web.body_budget.TURN_SECONDS", 60)
    limits = settings.limits.model_copy(update={"uploads": 2})
    async with running(settings.model_copy(update={"limits": limits})) as app:
        more, being_read = asyncio.Event(), asyncio.Semaphore(0)

        @app.post("/uploads", max_body_size=4 * MIB)
        async def upload(request: Request) -> None:
            await request.body()

        async def slow() -> AsyncIterator[bytes]:
            being_read.release()
            await more.wait()
            yield b" "

        async with client_of(app) as client:

            def send(number: int) -> list[asyncio.Task[httpx2.Response]]:
                posts = (client.post("/uploads", content=slow()) for _ in range(number))
                return [asyncio.create_task(post) for post in posts]

            accepted = []
            for _ in range(READ_AT_ONCE):
                accepted += send(1)
                await being_read.acquire()
            waiting = send(3)  # two may wait
            done, accepted_too = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            assert [task.result().status_code for task in done] == [503]
            assert "ratelimit" not in done.pop().result().headers  # Valkey was not asked
            more.set()
            answers = await asyncio.gather(*accepted, *accepted_too)
            assert all("ratelimit" in answer.headers for answer in answers)


async def test_large_setting_for_bodies_makes_no_body_an_upload(settings: Settings) -> None:
    """Bodies of other routes need no turn, and share the budget."""
    limits = settings.limits.model_copy(
        update={"body_bytes": 8 * MIB, "uploads": 1, "upload_bytes": 4 * MIB}
    )
    async with running(settings.model_copy(update={"limits": limits})) as app:
        leave = asyncio.Event()

        @app.post("/bodies")
        async def read(request: Request) -> int:
            await leave.wait()
            return len(await request.body())

        async with client_of(app) as client:
            reading = [asyncio.create_task(client.post("/bodies", content=b"1")) for _ in range(9)]
            large = asyncio.create_task(client.post("/bodies", content=b"1" * 4 * MIB))
            while app.state.concurrency_limiter.running < 10:
                await asyncio.sleep(0.01)
            refused = await client.post("/bodies", content=b"1" * 2 * MIB)
            assert refused.status_code == 503
            leave.set()
            answers = await asyncio.gather(*reading, large)
            assert {answer.status_code for answer in answers} == {200}


@pytest.fixture
async def bodies(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of a service whose memory for bodies is used up by one body of a MiB."""
    monkeypatch.setattr("app.infra.web.body_budget.SLOW_SECONDS", 0.2)
    limits = settings.limits.model_copy(update={"upload_bytes": MIB - FREE_BYTES})
    async with running(settings.model_copy(update={"limits": limits})) as app:

        @app.post("/bodies")
        async def read(request: Request) -> int:
            return len(await request.body())

        async with client_of(app) as client:
            yield client


class SlowBody:
    """A request that sends a part of its body, and the rest after `rest` is set."""

    def __init__(self, client: httpx2.AsyncClient, size: int) -> None:
        self.rest = asyncio.Event()
        self._size = size
        self.answer = asyncio.create_task(client.post("/bodies", content=self._pieces()))

    async def _pieces(self) -> AsyncIterator[bytes]:
        yield b" " * self._size
        await self.rest.wait()
        yield b" "


async def test_slow_body_gives_its_memory_to_one_that_began_later(
    bodies: httpx2.AsyncClient,
) -> None:
    slow = SlowBody(bodies, MIB)
    await asyncio.sleep(0.1)
    refused = await bodies.post("/bodies", content=b" " * MIB)
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    await asyncio.sleep(0.2)
    assert not slow.answer.done()
    for _ in range(2):
        assert (await bodies.post("/bodies", content=b" " * MIB)).status_code == 200
    assert (await slow.answer).status_code == 503


async def test_slow_body_is_received_while_nobody_needs_its_memory(
    bodies: httpx2.AsyncClient,
) -> None:
    slow = SlowBody(bodies, MIB // 2)
    await asyncio.sleep(0.3)
    assert (await bodies.post("/bodies", content=b" " * (MIB // 2))).status_code == 200
    slow.rest.set()
    assert (await slow.answer).json() == MIB // 2 + 1


async def test_small_bodies_need_no_memory_of_the_budget(bodies: httpx2.AsyncClient) -> None:
    large = SlowBody(bodies, MIB - 1)
    small = [SlowBody(bodies, 60_000) for _ in range(30)]
    await asyncio.sleep(0.3)
    for body in (large, *small):
        body.rest.set()
        assert (await body.answer).status_code == 200


async def test_upload_is_in_memory_once(settings: Settings) -> None:
    async with running(settings) as app:

        @app.post("/uploads", max_body_size=4 * MIB)
        async def upload(request: Request) -> int:
            content = await read_upload(request)
            assert request.scope["app"]  # the request is alive, as in any route
            return tracemalloc.get_traced_memory()[0] - len(content) - before

        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(64):
                yield b" " * (MIB // 16)

        async with client_of(app) as client:
            tracemalloc.start()
            try:
                before = tracemalloc.get_traced_memory()[0]
                more = (await client.post("/uploads", content=pieces())).json()
            finally:
                tracemalloc.stop()
    assert more < MIB


def test_client_that_was_told_to_continue_can_send_the_rest_after_a_refusal(
    connection: http.client.HTTPConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A TCP reset could destroy the refusal."""
    monkeypatch.setattr("graceful_gunicorn.protocol.LINGER_SECONDS", 3_600)
    head = f"{POST}Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n"
    connection.sock.sendall(head.encode())
    assert connection.sock.recv(1_000) == b"HTTP/1.1 100 Continue\r\n\r\n"
    chunk = b"3e8\r\n" + b" " * 1_000 + b"\r\n"
    connection.sock.sendall(3 * chunk)
    assert read(connection) == TOO_LARGE
    for _ in range(1_000):
        connection.sock.sendall(chunk)
    connection.sock.sendall(b"0\r\n\r\n")
    assert connection.sock.recv(1) == b""
