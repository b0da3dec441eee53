"""How long a connection waits, and when it ends, with deadlines that pass when a test says so."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import ClassVar

import pytest
from starlette.types import Receive, Scope, Send

from graceful_gunicorn._overdue import OverdueTimer
from graceful_gunicorn.protocol import protocol_class
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

PART = b"Content-Length: 6\r\n\r\nabc"
POST = b"POST / HTTP/1.1\r\n" + HOST
EARLY = b"POST /early HTTP/1.1\r\n" + HOST
EXPECT = b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\n"


class Deadline(OverdueTimer):
    """A deadline that passes when a test says so."""

    made: ClassVar[list["Deadline"]] = []

    def __init__(self, _seconds: float, callback: Callable[[], object]) -> None:
        super().__init__(3_600, callback)
        Deadline.made.append(self)

    @staticmethod
    def pass_all() -> None:
        """Let all deadlines pass that were not cancelled."""
        for deadline in list(Deadline.made):
            if not deadline._handle.cancelled():
                deadline.cancel()
                deadline._callback()


@pytest.fixture
def no_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no time limit of a connection pass by itself."""
    monkeypatch.setattr("graceful_gunicorn.protocol.OverdueTimer", Deadline)
    monkeypatch.setattr("graceful_gunicorn.protocol.LINGER_SECONDS", 3_600)
    monkeypatch.setattr(Deadline, "made", [])


@pytest.fixture
async def patient_server(no_timeouts: None) -> AsyncIterator[LoopbackServer]:
    async with serving(protocol_class(CONFIG), keep_alive_seconds=3_600) as server:
        yield server


@pytest.fixture
async def patient_client(patient_server: LoopbackServer) -> Client:
    """A client of the server whose time limits do not pass by themselves."""
    return await patient_server.connect()


async def test_a_response_waits_for_a_client_that_reads_slowly(no_timeouts: None) -> None:
    """Otherwise the server would keep all of it in memory."""
    sent = 0

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        nonlocal sent
        length = (b"content-length", b"%d" % (3 * LARGE_BYTES))
        await send({"type": "http.response.start", "status": 200, "headers": [length]})
        for left in reversed(range(30)):
            piece = bytes(LARGE_BYTES // 10)
            await send({"type": "http.response.body", "body": piece, "more_body": left > 0})
            sent += 1

    async with serving(protocol_class(CONFIG), keep_alive_seconds=3_600, app=app) as server:

        def is_waiting() -> bool:
            return any(one.flow.write_paused for one in server.connections)

        before = refused.copy()
        client = await server.connect()
        await client.send(GET)
        await eventually(lambda: is_waiting() or sent == 30)
        assert sent < 30
        status, _, body = await client.response()
        assert (status, len(body)) == (200, 3 * LARGE_BYTES)
        Deadline.pass_all()  # the client has read, so none is left
        await client.send(GET)
        assert (await client.response_head())[0] == 200
        await eventually(is_waiting)
        client.close()
        await eventually(lambda: not server.connections)
        Deadline.pass_all()  # a client that has left is not slow
        assert refused == before


async def test_a_body_has_no_deadline_while_the_application_does_not_read_it(
    no_timeouts: None,
) -> None:
    may_read, left = asyncio.Event(), asyncio.Event()
    received = 0

    async def app(_scope: Scope, receive: Receive, _send: Send) -> None:
        nonlocal received
        await may_read.wait()
        while (message := await receive())["type"] == "http.request":
            received += len(message["body"])
        left.set()

    async with serving(protocol_class(CONFIG), keep_alive_seconds=3_600, app=app) as server:
        before = refused.copy()
        client = await server.connect()
        unfinished = POST + b"Content-Length: 1000000\r\n\r\n" + bytes(999_999)
        sending = asyncio.create_task(client.send(unfinished))
        await eventually(lambda: any(one.flow.read_paused for one in server.connections))
        Deadline.pass_all()
        assert refused == before
        may_read.set()
        await sending
        await eventually(lambda: received == 999_999)  # the body has not ended
        Deadline.pass_all()
        assert await client.final_error() == (408, "request_timeout")
        async with asyncio.timeout(PATIENCE_SECONDS):
            await left.wait()  # while the connection is still open
        assert dict(refused - before) == {"body_seconds": 1}


@pytest.mark.parametrize(
    ("first", "rest"),
    [(GET[:20], GET[20:]), (POST + PART, b"def"), (EARLY + PART, b"def")],
)
async def test_a_deadline_ends_with_the_request_and_with_the_connection(
    patient_server: LoopbackServer, patient_client: Client, first: bytes, rest: bytes
) -> None:
    before = refused.copy()
    await patient_client.send(first)
    await eventually(lambda: Deadline.made)
    await patient_client.send(rest)
    await patient_client.response()
    assert await patient_client.is_usable()
    Deadline.pass_all()
    assert await patient_client.is_usable()
    Deadline.made.clear()
    await patient_client.send(first)
    await eventually(lambda: Deadline.made)
    patient_client.close()
    await eventually(lambda: not patient_server.connections)
    Deadline.pass_all()
    assert refused == before


@pytest.mark.parametrize(
    ("limit", "pieces"),
    [
        ("header_seconds", [GET[:20]]),
        ("body_seconds", [POST + PART]),
        ("body_seconds", [POST[:20], POST[20:] + PART]),
    ],
)
async def test_the_head_and_the_body_have_deadlines_of_their_own(
    limit: str, pieces: list[bytes]
) -> None:
    head, body = (0.3 if limit == name else 3_600 for name in ("header_seconds", "body_seconds"))
    limits = replace(CONFIG, header_seconds=head, body_seconds=body)
    async with serving(protocol_class(limits), keep_alive_seconds=3_600) as server:
        before = refused.copy()
        client = await server.connect()
        for piece in pieces:
            await client.send(piece)
            await eventually(lambda: any(one._timer for one in server.connections))
        assert await client.final_error() == (408, "request_timeout")
        assert dict(refused - before) == {limit: 1}


@pytest.mark.parametrize("can_write_eof", [True, False])
async def test_a_refused_client_that_stays_is_disconnected(
    patient_server: LoopbackServer,
    patient_client: Client,
    monkeypatch: pytest.MonkeyPatch,
    *,
    can_write_eof: bool,
) -> None:
    """With TLS, a connection cannot end in one direction only."""
    transport = "asyncio.selector_events._SelectorSocketTransport"
    monkeypatch.setattr(f"{transport}.can_write_eof", lambda _: can_write_eof)
    monkeypatch.setattr("graceful_gunicorn.protocol.LINGER_SECONDS", 0.1)
    await patient_client.send(b"\x16\x03\x01")
    assert await patient_client.final_error() == (400, "bad_request")
    await eventually(lambda: not patient_server.connections)


# How long the rest of a body is awaited, what the client sends, and the statuses that it gets.
ENDINGS: list[tuple[float, list[tuple[bytes, int]]]] = [
    *[(3_600, [(head + b"Content-Length: 3\r\n\r\nabc", 413)]) for head in LAST_REQUESTS],
    *[(3_600, [(head + PART, 413), (b"def", 0)]) for head in LAST_REQUESTS],
    (3_600, [(POST + b"Connection: close\r\n" + EXPECT, 100), (b"abc", 200)]),
    (3_600, [(EARLY + EXPECT, 413)]),
    (0.1, [(EARLY + PART, 413)]),
]


@pytest.mark.parametrize(("linger_seconds", "exchanges"), ENDINGS)
async def test_a_connection_closes_without_waiting_for_another_timeout(
    patient_client: Client,
    monkeypatch: pytest.MonkeyPatch,
    linger_seconds: float,
    exchanges: list[tuple[bytes, int]],
) -> None:
    monkeypatch.setattr("graceful_gunicorn.protocol.LINGER_SECONDS", linger_seconds)
    for content, status in exchanges:
        await patient_client.send(content)
        if status:
            assert (await patient_client.response())[0] == status
    assert await patient_client.read_to_end() == b""


async def test_a_client_that_sends_its_body_after_100_continue_gets_the_early_response(
    no_timeouts: None,
) -> None:
    """A TCP reset would destroy it, so the rest of the body is read."""

    async def app(_scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        length = (b"content-length", b"0")
        await send({"type": "http.response.start", "status": 413, "headers": [length]})
        await send({"type": "http.response.body"})

    async with serving(protocol_class(CONFIG), keep_alive_seconds=3_600, app=app) as server:
        client = await server.connect()
        await client.send(POST + EXPECT.replace(b"3", b"3000000"))
        assert (await client.response())[0] == 100
        await client.send(b"abc")
        assert (await client.response())[0] == 413
        await client.send(b"x" * 2_999_997 + POST + b"Content-Length: 1\r\n\r\nx")
        assert (await client.response())[0] == 413  # the answer to the next request


async def test_a_pipelined_request_has_the_deadline_of_its_own_body(
    patient_server: LoopbackServer, patient_client: Client
) -> None:
    await patient_client.send(GET.replace(b"/", b"/busy", 1) + POST + PART)
    await eventually(lambda: patient_server.busy_has_begun.is_set() and Deadline.made)
    patient_server.busy_may_end.set()
    assert (await patient_client.response())[0] == 200
    Deadline.pass_all()
    assert await patient_client.final_error() == (408, "request_timeout")


async def test_an_error_in_a_body_is_not_sent_into_a_response(
    patient_server: LoopbackServer,
) -> None:
    chunked = HOST + b"Transfer-Encoding: chunked\r\n\r\n"
    client = await patient_server.connect()
    await client.send(b"POST /stream HTTP/1.1\r\n" + chunked)
    assert (await client.response_head())[0] == 200
    await client.send(b"xyz\r\n")
    assert b"HTTP/1.1" not in await client.read_to_end()
    client = await patient_server.connect()
    bad = b"POST / HTTP/1.1\r\n" + chunked + b"xyz\r\n"
    await client.send(GET.replace(b"/", b"/stream", 1) + bad)
    assert b" 400 " not in await client.read_to_end()


async def test_the_response_before_a_bad_request_is_the_last_one(
    patient_server: LoopbackServer, patient_client: Client
) -> None:
    before = refused.copy()
    await patient_client.send(GET.replace(b"/", b"/busy", 1) + b"GET / HTT")
    await eventually(lambda: Deadline.made)
    await patient_client.send(b"P/1.1\r\n\r\n")
    await eventually(lambda: refused != before)
    Deadline.pass_all()
    patient_server.busy_may_end.set()
    status, headers, _ = await patient_client.response()
    assert (status, headers.get("connection")) == (200, "close")
    assert await patient_client.read_to_end() == b""
    assert (refused - before).total() == 1


async def test_an_ipv4_client_of_an_ipv6_socket_has_its_ipv4_address(
    server: LoopbackServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "uvicorn.protocols.http.httptools_impl.get_remote_addr",
        lambda _transport: ("::ffff:192.0.2.7", 4711),
    )
    client = await server.connect()
    assert await client.is_usable()
    assert server.scopes[0]["client"] == ("192.0.2.7", 4711)


async def test_the_running_request_of_a_draining_connection_is_its_last_one(
    patient_server: LoopbackServer, patient_client: Client
) -> None:
    await patient_client.send(GET.replace(b"/", b"/busy", 1))
    await eventually(lambda: patient_server.busy_has_begun.is_set())
    [connection] = patient_server.connections
    connection.drain()
    patient_server.busy_may_end.set()
    status, headers, _ = await patient_client.response()
    assert (status, headers.get("connection")) == (200, "close")
    assert await patient_client.read_to_end() == b""


@pytest.mark.parametrize("header", [b"", b"Connection: close\r\n"])
async def test_a_response_that_fails_ends_its_connection_while_the_body_is_incomplete(
    no_timeouts: None, header: bytes
) -> None:
    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        length = (b"content-length", b"9")
        await send({"type": "http.response.start", "status": 200, "headers": [length]})
        raise RuntimeError("This was raised on purpose.")

    async with serving(protocol_class(CONFIG), keep_alive_seconds=3_600, app=app) as server:
        client = await server.connect()
        await client.send(POST + header + PART)
        assert (await client.response_head())[0] == 200
        assert await client.read_to_end() == b""
