"""Deadlines, backpressure, pipelining and malformed requests, over real sockets.

No part of the application is involved.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace

import pytest
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from graceful_gunicorn.protocol import LimitedProtocol
from tests.graceful_gunicorn.loopback_server import (
    CONFIG,
    LARGE_BYTES,
    PATIENCE_SECONDS,
    Client,
    LoopbackServer,
    eventually,
    refused,
    serving,
)
from tests.graceful_gunicorn.raw_requests import GET, HOST, LAST_REQUESTS


class ImpatientProtocol(LimitedProtocol):
    """Has short deadlines, for the tests of what happens at a deadline."""

    limits = replace(CONFIG, header_seconds=0.3, body_seconds=0.3, write_seconds=0.3)


class ObservedProtocol(LimitedProtocol):
    """Observes the length of the pipeline."""

    limits = CONFIG
    max_pipelined = 0

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        ObservedProtocol.max_pipelined = max(ObservedProtocol.max_pipelined, len(self.pipeline))


@pytest.fixture
async def impatient_server() -> AsyncIterator[LoopbackServer]:
    async with serving(ImpatientProtocol) as server:
        yield server


@pytest.fixture
async def impatient_client(impatient_server: LoopbackServer) -> Client:
    """A client of the server with short deadlines."""
    return await impatient_server.connect()


async def test_pipelined_requests_are_answered_on_one_connection(client: Client) -> None:
    post = b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 3\r\n\r\nabc"
    await client.send(GET + post + b"\r\n" + GET)
    assert [(await client.response())[2] for _ in range(3)] == [b"0", b"3", b"0"]


@pytest.mark.parametrize("first", [b"G", b"GET / HTTP/1.1\r\nHost: te"])
async def test_an_unfinished_head_is_refused_at_its_deadline(
    impatient_client: Client, first: bytes
) -> None:
    await impatient_client.send(first)
    assert await impatient_client.final_error() == (408, "request_timeout")


async def test_a_head_that_trickles_is_refused_at_its_deadline(impatient_client: Client) -> None:
    async def trickle() -> None:
        await impatient_client.send(b"GET / HTTP/1.1\r\n")
        while True:
            await impatient_client.send(b"X: y\r\n")
            await asyncio.sleep(0.05)

    trickling = asyncio.create_task(trickle())
    assert await impatient_client.final_error() == (408, "request_timeout")
    trickling.cancel()


async def test_a_head_that_arrives_byte_by_byte_is_served(client: Client) -> None:
    for index in range(len(GET)):
        await client.send(GET[index : index + 1])
        await asyncio.sleep(0)
    assert (await client.response())[0] == 200


async def test_an_idle_connection_has_no_deadline_for_a_head_or_body(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("graceful_gunicorn.protocol.LINGER_SECONDS", 0.1)
    async with serving(ImpatientProtocol, keep_alive_seconds=60) as server:
        client = await server.connect()
        for _ in range(2):
            assert await client.is_usable()
            await asyncio.sleep(0.6)  # longer than each deadline
        assert await client.is_usable()


@pytest.mark.parametrize("sent", [b"", b"\r\n", GET, GET + b"\r\n"])
async def test_a_connection_without_a_request_is_closed_after_the_idle_timeout(
    client: Client, sent: bytes
) -> None:
    await client.send(sent)
    if GET in sent:
        await client.response()
    assert await client.read_to_end() == b""


@pytest.mark.parametrize(
    "headers", [b"Content-Length: 9\r\n\r\nabc", b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"]
)
async def test_an_unfinished_body_is_refused_at_its_deadline(
    impatient_server: LoopbackServer, impatient_client: Client, headers: bytes
) -> None:
    await impatient_client.send(b"POST /path HTTP/1.1\r\n" + HOST + headers)
    assert await impatient_client.final_error() == (408, "request_timeout")
    await eventually(lambda: impatient_server.bodies)
    assert impatient_server.bodies == [None]  # the application sees a client that has disconnected


async def test_a_body_in_tiny_chunks_is_passed_on_in_a_few_pieces(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces = []

    def on_body(protocol: HttpToolsProtocol, body: bytes) -> None:
        pieces.append(body)
        pass_on(protocol, body)

    pass_on = HttpToolsProtocol.on_body
    monkeypatch.setattr(HttpToolsProtocol, "on_body", on_body)
    head = b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
    await client.send((head + b"1\r\na\r\n" * 2_000 + b"0\r\n\r\n") * 2)
    assert [(await client.response())[2] for _ in range(2)] == [b"2000", b"2000"]
    assert b"".join(pieces) == b"a" * 4_000
    assert len(pieces) < 100


@pytest.mark.parametrize(
    "content",
    [
        b"\x16\x03\x01 no HTTP at all\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost : test\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: test\r\n\r\n",
        b"GET http://test HTTP/1.1\r\nHost: test\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
    ],
)
async def test_a_malformed_request_is_refused_with_a_problem(
    client: Client, content: bytes
) -> None:
    await client.send(content)
    assert await client.final_error() == (400, "bad_request")


@pytest.mark.parametrize("second", [b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03"])
async def test_a_bad_request_does_not_corrupt_the_response_before_it(
    client: Client, second: bytes
) -> None:
    await client.send(b"GET /stream HTTP/1.1\r\n" + HOST + b"\r\n" + second)
    assert (await client.read_to_end()).endswith(b"piece\r\n0\r\n\r\n")


async def test_a_running_request_learns_that_its_client_left_behind_a_pipelined_one() -> None:
    left = asyncio.Event()

    async def app(_scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        await send({"type": "http.response.start", "status": 200, "headers": []})  # no error
        left.set()

    async with serving(ObservedProtocol, app=app) as server:
        client = await server.connect()
        await client.send(GET + GET)
        await eventually(lambda: [one for one in server.connections if one.pipeline])
        client.close()
        async with asyncio.timeout(PATIENCE_SECONDS):
            await left.wait()


async def test_the_rest_of_a_body_is_read_after_an_early_response(client: Client) -> None:
    await client.send(b"POST /early HTTP/1.1\r\n" + HOST + b"Content-Length: 3000000\r\n\r\nabc")
    assert (await client.response())[0] == 413
    await client.send(b"x" * 2_999_997)
    assert await client.is_usable()


async def test_the_connection_closes_if_the_rest_of_a_body_does_not_arrive(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("graceful_gunicorn.protocol.LINGER_SECONDS", 0.1)
    await client.send(b"POST /early HTTP/1.1\r\n" + HOST + b"Content-Length: 3000000\r\n\r\nabc")
    assert (await client.response())[0] == 413
    assert await client.read_to_end() == b""


@pytest.mark.parametrize("head", LAST_REQUESTS)
async def test_the_last_request_is_read_for_a_while_after_an_early_response(
    client: Client, head: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A TCP reset would destroy the response of a client that still sends."""
    monkeypatch.setattr("graceful_gunicorn.protocol.LINGER_SECONDS", 0.5)
    await client.send(head + b"Content-Length: 3000000\r\n\r\nabc")
    status, headers, _ = await client.response()
    assert (status, headers["connection"]) == (413, "close")
    began = time.monotonic()
    assert await client.read_to_end() == b""
    assert time.monotonic() - began >= 0.4


@pytest.mark.parametrize("head", LAST_REQUESTS)
async def test_the_connection_closes_when_the_last_request_has_arrived(
    server: LoopbackServer, client: Client, head: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("graceful_gunicorn.protocol.LINGER_SECONDS", 60)
    before = len(server.scopes), refused.total()
    await client.send(head + b"Content-Length: 3000000\r\n\r\nabc")
    assert (await client.response())[0] == 413
    [connection] = server.connections
    await client.send(b"x" * 2_999_997 + GET)
    assert await client.read_to_end() == b""
    assert connection.transport.is_closing()
    assert (len(server.scopes) - 1, refused.total()) == before  # what follows is not answered


async def test_the_connection_closes_if_the_client_still_waits_for_100_continue(
    client: Client,
) -> None:
    """Otherwise the body might be parsed as the next request."""
    expects = b"Expect: 100-continue\r\nContent-Length: 100\r\n\r\n"
    await client.send(b"POST /early HTTP/1.1\r\n" + HOST + expects)
    assert (await client.response())[0] == 413
    assert await client.read_to_end() == b""


async def test_refused_requests_are_counted(client: Client) -> None:
    before = refused["malformed"]
    await client.send(b"\x16\x03\x01")
    await client.final_error()
    assert refused["malformed"] == before + 1


async def test_a_client_that_does_not_read_is_disconnected(
    impatient_server: LoopbackServer,
) -> None:
    before = refused["write_seconds"]
    client = await impatient_server.connect()
    await client.send(GET.replace(b"/", b"/large", 1))
    await eventually(lambda: refused["write_seconds"] > before)
    with suppress(ConnectionError):
        assert len(await client.read_to_end()) < LARGE_BYTES
    assert refused["write_seconds"] == before + 1


async def test_a_client_that_reads_receives_a_large_response(server: LoopbackServer) -> None:
    client = await server.connect()
    await client.send(GET.replace(b"/", b"/large", 1))
    status, _, body = await client.response()
    assert (status, len(body)) == (200, LARGE_BYTES)


async def test_many_pipelined_requests_are_all_answered(server: LoopbackServer) -> None:
    client = await server.connect()
    await client.send(GET * 2_000)
    for _ in range(2_000):
        assert (await client.response())[0] == 200


async def test_pipelined_requests_are_not_read_faster_than_they_are_answered() -> None:
    ObservedProtocol.max_pipelined = 0
    number = 30_000
    async with serving(ObservedProtocol) as server:
        client = await server.connect()
        sending = asyncio.create_task(client.send(GET * number))
        for _ in range(number):
            await client.response()
        await sending
    assert 0 < ObservedProtocol.max_pipelined < number / 2


async def test_after_a_refused_pipelined_request_nothing_more_is_read(
    server: LoopbackServer,
) -> None:
    before = refused["malformed"]
    client = await server.connect()
    await client.send(GET.replace(b"/", b"/stream", 1) + b"garbage\r\n\r\n")
    assert await client.flood(bytes(100_000), max_bytes=100_000_000, seconds=0.5) < 50_000_000
    assert refused["malformed"] == before + 1


async def test_a_busy_server_reads_data_that_has_arrived_before_it_refuses_a_slow_head(
    impatient_server: LoopbackServer,
) -> None:
    client = await impatient_server.connect()
    await client.send(GET.replace(b"/", b"/busy", 1) + GET + GET[:20])
    await eventually(lambda: impatient_server.busy_has_begun.is_set())
    await client.send(GET[20:])
    impatient_server.busy_may_end.set()
    assert [(await client.response())[0] for _ in range(3)] == [200, 200, 200]


async def test_a_draining_connection_is_closed_after_its_next_response(
    server: LoopbackServer, client: Client
) -> None:
    assert await client.is_usable()
    [connection] = server.connections
    connection.drain()
    await client.send(GET)
    status, headers, _ = await client.response()
    assert (status, headers["connection"]) == (200, "close")
    assert await client.read_to_end() == b""


async def test_a_connection_is_not_drained_while_an_unread_body_arrives(
    server: LoopbackServer, client: Client
) -> None:
    await client.send(b"POST /busy HTTP/1.1\r\n" + HOST + b"Content-Length: 3000000\r\n\r\nabc")
    await eventually(lambda: server.busy_has_begun.is_set())
    [connection] = server.connections
    connection.drain()
    server.busy_may_end.set()
    status, headers, _ = await client.response()
    assert (status, headers.get("connection")) == (200, None)
    await client.send(b"x" * 2_999_997 + GET)
    status, headers, _ = await client.response()
    assert (status, headers["connection"]) == (200, "close")
    assert await client.read_to_end() == b""
