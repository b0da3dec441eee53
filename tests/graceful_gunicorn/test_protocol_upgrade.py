"""Requests that ask for another protocol (`Upgrade`) are answered in HTTP/1.1 with their body."""

import asyncio
from collections.abc import Callable, Sequence

import pytest

from tests.graceful_gunicorn.loopback_server import Client, LoopbackServer, refused
from tests.graceful_gunicorn.raw_requests import (
    GET,
    H2C,
    HOST,
    WEBSOCKET,
    in_many_chunks,
    in_one_chunk,
    post,
    with_content_length,
)

UPGRADES = [
    H2C,
    WEBSOCKET,
    b"Upgrade: foo/2\r\nConnection: upgrade\r\n",
    b"Upgrade: a\r\nUPGRADE: b\r\nConnection: a\r\nconnection: UPGRADE\r\n",
]
LARGE = b"0123456789abcdef" * 10_000
BODIES = {
    "short": b"abc",
    "a request": b"GET /in-the-body HTTP/1.1\r\n" + HOST + b"\r\n",
    "another upgrade": b"POST / HTTP/1.1\r\n" + HOST + H2C + b"Content-Length: 2\r\n\r\nab",
    "empty lines and a request": b"\r\n" * 20_000 + GET,
    "large": LARGE,
}

Framing = Callable[[bytes], bytes]
EACH_BODY = pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
EACH_FRAMING = pytest.mark.parametrize("frame", [with_content_length, in_one_chunk, in_many_chunks])


async def received(server: LoopbackServer, client: Client, number: int) -> Sequence[object]:
    """Read `number` responses, and return the path and body of each request so far.

    Another request on the same connection proves that no response is surplus or missing.
    """
    assert [(await client.response())[0] for _ in range(number)] == [200] * number
    assert await client.is_usable()
    requests = list(zip([scope["path"] for scope in server.scopes], server.bodies, strict=True))
    server.scopes.clear()
    server.bodies.clear()
    assert requests[number:] == [("/", b"")]
    return requests[:number]


@EACH_BODY
@EACH_FRAMING
async def test_the_body_after_an_upgrade_belongs_to_its_request(
    server: LoopbackServer, body: bytes, frame: Framing
) -> None:
    for upgrade in UPGRADES:
        client = await server.connect()
        await client.send(post(upgrade, frame(body)) + post(b"", with_content_length(b"second")))
        requests = await received(server, client, 2)
        assert requests == [("/first", body), ("/first", b"second")], upgrade


@EACH_BODY
@EACH_FRAMING
async def test_the_body_may_arrive_in_a_later_packet(
    server: LoopbackServer, body: bytes, frame: Framing
) -> None:
    for upgrade in UPGRADES:
        client = await server.connect()
        head, _, rest = post(upgrade, frame(body)).partition(b"\r\n\r\n")
        await client.send(head + b"\r\n\r\n")
        while not server.scopes:  # until the server has received the head alone
            await asyncio.sleep(0.001)
        await client.send(rest + GET)
        requests = await received(server, client, 2)
        assert requests == [("/first", body), ("/", b"")], upgrade


@pytest.mark.parametrize("body", [BODIES["a request"], BODIES["another upgrade"]])
@EACH_FRAMING
async def test_a_request_with_an_upgrade_may_be_split_anywhere(
    server: LoopbackServer, body: bytes, frame: Framing
) -> None:
    request = post(H2C, frame(body))
    for at in range(1, len(request), 7):
        client = await server.connect()
        await client.send(request[:at])
        await asyncio.sleep(0)
        await client.send(request[at:])
        assert await received(server, client, 1) == [("/first", body)]
        client.close()


@EACH_FRAMING
async def test_a_request_with_an_upgrade_may_arrive_byte_by_byte(
    server: LoopbackServer, client: Client, frame: Framing
) -> None:
    body = BODIES["another upgrade"]
    for byte in post(H2C, frame(body)):
        await client.send(bytes([byte]))
        await asyncio.sleep(0)
    assert await received(server, client, 1) == [("/first", body)]


async def test_many_pipelined_upgrades_are_all_answered(
    server: LoopbackServer, client: Client
) -> None:
    sent = [post(H2C, with_content_length(b"%d" % number)) for number in range(1_000)]
    await client.send(b"".join(sent))
    requests = await received(server, client, 1_000)
    assert requests == [("/first", b"%d" % number) for number in range(1_000)]


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"DELETE"])
async def test_an_upgrade_without_a_body_is_an_ordinary_request(
    client: Client, method: bytes
) -> None:
    await client.send(method + b" /early HTTP/1.1\r\n" + HOST + WEBSOCKET + b"\r\n")
    if method == b"HEAD":
        assert (await client.response_head())[0] == 413
    else:
        assert (await client.response())[0] == 413
    assert await client.is_usable()


@pytest.mark.parametrize(
    ("version", "connection"), [(b"1.1", b"upgrade, close"), (b"1.0", b"upgrade")]
)
async def test_an_upgrade_may_be_the_last_request_of_a_connection(
    server: LoopbackServer, client: Client, version: bytes, connection: bytes
) -> None:
    fields = b"Connection: %s\r\nUpgrade: h2c\r\n" % connection
    request = post(fields, with_content_length(b"abc")).replace(b"1.1", version, 1)
    before = refused.copy()
    await client.send(request + GET)
    assert (await client.response())[0] == 200
    assert await client.read_to_end() == b""
    assert (server.bodies, refused) == ([b"abc"], before)


async def test_the_application_receives_all_headers_except_upgrade(
    server: LoopbackServer, client: Client
) -> None:
    fields = b"X-Empty:\r\nX-Text:  a\xe9: b \r\nCookie: a=b\r\nCookie: c=d\r\n"
    await client.send(b"GET /path?a=%20b HTTP/1.1\r\n" + HOST + fields + H2C + b"\r\n")
    assert (await client.response())[0] == 200
    [scope] = server.scopes
    assert (scope["path"], scope["query_string"]) == ("/path", b"a=%20b")
    assert scope["headers"][:5] == [
        (b"host", b"test"),
        (b"x-empty", b""),
        (b"x-text", b"a\xe9: b "),
        (b"cookie", b"a=b"),
        (b"cookie", b"c=d"),
    ]
    assert b"upgrade" not in dict(scope["headers"])


async def test_a_trailer_does_not_become_a_header(server: LoopbackServer, client: Client) -> None:
    start, trailer = in_one_chunk(b"abc").rsplit(b"\r\n", 1)
    await client.send(post(b"", start + b"Authorization: Bearer abc\r\n\r\n" + trailer))
    assert (await client.response())[0] == 200
    assert b"authorization" not in dict(server.scopes[0]["headers"])


async def test_the_connection_stays_usable_after_an_early_response_to_an_upgrade(
    client: Client,
) -> None:
    request = post(H2C, with_content_length(LARGE)).replace(b"/first", b"/early")
    await client.send(request[:2_000])
    assert (await client.response())[0] == 413
    await client.send(request[2_000:])
    assert await client.is_usable()


@pytest.mark.parametrize("value", [b"x" * 40_000, b"x" * 400_000])
async def test_a_large_upgrade_header_counts_as_a_large_head(client: Client, value: bytes) -> None:
    upgrade = b"Connection: upgrade\r\nUpgrade: %s\r\n" % value
    await client.send(b"GET / HTTP/1.1\r\n" + HOST + upgrade + b"\r\n")
    assert (await client.final_error())[0] == 431


async def test_an_invalid_host_is_refused_in_an_upgrade_too(server: LoopbackServer) -> None:
    for hosts in (b"", HOST + HOST, b"Host: a b\r\n"):
        client = await server.connect()
        await client.send(b"GET / HTTP/1.1\r\n" + hosts + H2C + b"\r\n")
        assert await client.final_error() == (400, "bad_request")
    assert server.scopes == []


async def test_http_2_with_prior_knowledge_is_refused_once(client: Client) -> None:
    await client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9) + GET)
    assert await client.final_error() == (400, "bad_request")
