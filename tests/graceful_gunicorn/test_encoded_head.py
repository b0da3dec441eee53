"""Responses whose heads were encoded before: clients see what Uvicorn would have sent."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from graceful_gunicorn import ENCODED_HEAD, decode_head, encode_head, protocol_class
from tests.graceful_gunicorn.loopback_server import CONFIG, Client, LoopbackServer, serving
from tests.graceful_gunicorn.raw_requests import GET, HOST

Start = dict[str, Any]
BODY = b"the body of a stored response"
LENGTH = (b"content-length", b"%d" % len(BODY))
STORED = [(b"content-type", b"text/plain"), LENGTH, (b"etag", b'"1"')]
ADDED = [(b"x-empty", b""), (b"x-request-id", b"one"), (b"Age", b"0")]


class StoredServer:
    """Answers with a stored response, after `change` has been applied to the message."""

    def __init__(self) -> None:
        self.is_encoded = True
        self.change: Callable[[Start], object] = lambda start: start["headers"].extend(ADDED)
        self.status, self.headers, self.pieces = 200, STORED, [BODY]

    async def app(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        start: Start = {"type": "http.response.start", "status": self.status}
        start["headers"] = [*self.headers]
        if self.is_encoded:
            start[ENCODED_HEAD] = encode_head(self.status, self.headers)
            assert start[ENCODED_HEAD] is not None
        self.change(start)
        await send(start)
        for piece in self.pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body"})


@pytest.fixture
def stored() -> StoredServer:
    return StoredServer()


@pytest.fixture
async def server(stored: StoredServer) -> AsyncIterator[LoopbackServer]:
    async with serving(protocol_class(CONFIG), app=stored.app) as opened:
        yield opened


@pytest.fixture
async def client(server: LoopbackServer) -> Client:
    return await server.connect()


async def answers(stored: StoredServer, client: Client, request: bytes) -> list[tuple[Any, ...]]:
    """Return the response with an encoded head, and the one without."""
    found = []
    for stored.is_encoded in (True, False):
        await client.send(request)
        found.append(await client.response())
    return found


def replace_etag(start: Start) -> None:
    start["headers"][2] = (b"etag", b'"2"')


def insert_first(start: Start) -> None:
    start["headers"].insert(0, (b"x-first", b"1"))


def remove_last(start: Start) -> None:
    start["headers"].pop()


def use_a_tuple(start: Start) -> None:
    start["headers"] = (*start["headers"], *ADDED)


def use_another_status(start: Start) -> None:
    start["status"] = 203


CHANGES = (replace_etag, insert_first, remove_last, use_a_tuple, use_another_status)


async def test_the_client_receives_what_uvicorn_would_have_sent(
    stored: StoredServer, client: Client
) -> None:
    encoded, plain = await answers(stored, client, GET)
    assert encoded == plain
    assert encoded[2] == BODY
    assert (encoded[1]["etag"], encoded[1]["x-request-id"], encoded[1]["age"]) == (
        '"1"',
        "one",
        "0",
    )


@pytest.mark.parametrize("change", CHANGES)
async def test_middleware_may_change_the_headers(
    stored: StoredServer, client: Client, change: Callable[[Start], object]
) -> None:
    stored.change = change
    encoded, plain = await answers(stored, client, GET)
    assert encoded == plain


@pytest.mark.parametrize(
    "header", [(b"x-name", b"a\r\nset-cookie: b=c"), (b"set-cookie: b=c; x", b"a")]
)
async def test_a_header_that_contains_another_one_is_not_sent(
    stored: StoredServer, client: Client, header: tuple[bytes, bytes]
) -> None:
    stored.change = lambda start: start["headers"].append(header)
    await client.send(GET)
    assert b"set-cookie" not in await client.read_to_end()


async def test_a_head_request_gets_no_body(stored: StoredServer, client: Client) -> None:
    for stored.is_encoded in (True, False):
        await client.send(b"HEAD / HTTP/1.1\r\n" + HOST + b"\r\n")
        status, headers = await client.response_head()
        assert (status, headers["content-length"]) == (200, str(len(BODY)))
    await client.send(GET)
    assert (await client.response())[2] == BODY


async def test_a_304_has_no_body(stored: StoredServer, client: Client) -> None:
    stored.status, stored.headers, stored.pieces = 304, STORED[2:], []
    encoded, plain = await answers(stored, client, GET)
    assert encoded == plain
    assert encoded[0] == 304
    assert "content-length" not in encoded[1]


async def test_pipelined_requests_get_their_responses(client: Client) -> None:
    await client.send(GET * 3)
    assert [(await client.response())[2] for _ in range(3)] == [BODY] * 3


async def test_a_body_may_be_sent_in_pieces(stored: StoredServer, client: Client) -> None:
    stored.pieces = [BODY[:5], BODY[5:6], BODY[6:]]
    encoded, plain = await answers(stored, client, GET)
    assert encoded == plain


@pytest.mark.parametrize("pieces", [[BODY[:-1]], [BODY, b"more"]])
async def test_a_body_of_another_length_ends_the_connection(
    stored: StoredServer, client: Client, pieces: list[bytes]
) -> None:
    stored.pieces = pieces
    await client.send(GET + GET)
    received = await client.read_to_end()
    assert received.count(b"HTTP/1.1") <= 1
    assert not received.endswith(b"more")


async def test_middleware_may_close_the_connection(stored: StoredServer, client: Client) -> None:
    stored.change = lambda start: start["headers"].append((b"connection", b"close"))
    await client.send(GET)
    assert (await client.response())[1]["connection"] == "close"
    assert await client.read_to_end() == b""


async def test_a_draining_connection_is_closed(server: LoopbackServer, client: Client) -> None:
    await client.send(GET)
    await client.response()
    [connection] = server.connections
    connection.drain()
    await client.send(GET)
    assert (await client.response())[1]["connection"] == "close"
    assert await client.read_to_end() == b""


@pytest.mark.parametrize(
    "header",
    [
        (b"x-name", b"a\r\nb"),
        (b"x name", b"a"),
        (b"transfer-encoding", b"chunked"),
        (b"connection", b"close"),
        LENGTH,
    ],
)
def test_some_heads_are_left_to_uvicorn(header: tuple[bytes, bytes]) -> None:
    assert encode_head(200, STORED) is not None
    assert encode_head(200, [*STORED, header]) is None


def test_a_head_without_a_usable_length_is_left_to_uvicorn() -> None:
    assert encode_head(200, STORED[:1]) is None
    assert encode_head(200, [(b"content-length", b"+1")]) is None
    assert encode_head(304, STORED) is None


def test_an_encoded_head_is_decoded_to_the_same_head() -> None:
    headers = [*STORED, (b"x-colon", b"a: b"), (b"x-empty", b"")]
    encoded = encode_head(203, headers)
    assert encoded is not None
    assert decode_head(encoded.content, len(BODY)) == encoded
