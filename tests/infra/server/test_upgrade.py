"""Requests that ask for another protocol, or leave in doubt where their body ends."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from app.infra.server.protocol import LimitedProtocol
from app.sections import ServerSettings
from tests.infra.server.connections import GET, HOST, Client, Clients, serving

H2C = (
    b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
    b"HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n"
)
WEBSOCKET = (
    b"Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
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

Write = Callable[[bytes], bytes]


class Protocol(LimitedProtocol):
    """With the limits of a service without settings."""

    limits = ServerSettings()


@pytest.fixture
async def clients() -> AsyncIterator[Clients]:
    async with serving(Protocol) as clients:
        yield clients


@pytest.fixture
async def client(clients: Clients) -> Client:
    return await clients.connect()


def by_length(body: bytes) -> bytes:
    return b"Content-Length: %d\r\n\r\n%s" % (len(body), body)


def in_one_chunk(body: bytes) -> bytes:
    return b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)


def in_chunks(body: bytes) -> bytes:
    pieces = [body[at : at + 1_000] for at in range(0, len(body), 1_000)]
    chunks = b"".join(b"%x;a=b\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    return b"Transfer-Encoding: Chunked\r\n\r\n" + chunks + b"0\r\nX-Trailer: a\r\n\r\n"


BODIES_OF_ALL_KINDS = pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
FRAMINGS = pytest.mark.parametrize("write", [by_length, in_one_chunk, in_chunks])


def post(upgrade: bytes, framed: bytes) -> bytes:
    return b"POST /first HTTP/1.1\r\n" + HOST + upgrade + framed


async def paths_and_bodies(clients: Clients, client: Client, number: int) -> list[object]:
    """Return what the application was asked, once everything has been answered."""
    assert [(await client.answer())[0] for _ in range(number)] == [200] * number
    assert await client.is_open()  # the next answer is that to the next request
    seen = list(zip([scope["path"] for scope in clients.scopes], clients.seen, strict=True))
    clients.scopes.clear()
    clients.seen.clear()
    assert seen[number:] == [("/", b"")]
    return seen[:number]  # type: ignore[return-value]


@BODIES_OF_ALL_KINDS
@FRAMINGS
async def test_the_body_behind_an_upgrade_belongs_to_its_request(
    clients: Clients, body: bytes, write: Write
) -> None:
    for upgrade in UPGRADES:
        client = await clients.connect()
        await client.send(post(upgrade, write(body)) + post(b"", by_length(b"second")))
        seen = await paths_and_bodies(clients, client, 2)
        assert seen == [("/first", body), ("/first", b"second")], upgrade


@BODIES_OF_ALL_KINDS
@FRAMINGS
async def test_the_body_may_come_in_a_later_packet(
    clients: Clients, body: bytes, write: Write
) -> None:
    for upgrade in UPGRADES:
        client = await clients.connect()
        head, _, rest = post(upgrade, write(body)).partition(b"\r\n\r\n")
        await client.send(head + b"\r\n\r\n")
        while not clients.scopes:  # the head has arrived alone
            await asyncio.sleep(0.001)
        await client.send(rest + GET)
        seen = await paths_and_bodies(clients, client, 2)
        assert seen == [("/first", body), ("/", b"")], upgrade


@pytest.mark.parametrize("body", [BODIES["a request"], BODIES["another upgrade"]])
@FRAMINGS
async def test_a_request_with_an_upgrade_may_come_in_two_parts_cut_anywhere(
    clients: Clients, body: bytes, write: Write
) -> None:
    request = post(H2C, write(body))
    for at in range(1, len(request), 7):
        client = await clients.connect()
        await client.send(request[:at])
        await asyncio.sleep(0)
        await client.send(request[at:])
        assert await paths_and_bodies(clients, client, 1) == [("/first", body)]
        client.close()


@FRAMINGS
async def test_a_request_with_an_upgrade_may_come_byte_by_byte(
    clients: Clients, client: Client, write: Write
) -> None:
    body = BODIES["another upgrade"]
    for byte in post(H2C, write(body)):
        await client.send(bytes([byte]))
        await asyncio.sleep(0)
    assert await paths_and_bodies(clients, client, 1) == [("/first", body)]


async def test_many_upgrades_at_once_are_all_answered(clients: Clients, client: Client) -> None:
    requests = [post(H2C, by_length(b"%d" % number)) for number in range(1_000)]
    await client.send(b"".join(requests))
    seen = await paths_and_bodies(clients, client, 1_000)
    assert seen == [("/first", b"%d" % number) for number in range(1_000)]


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"DELETE"])
async def test_an_upgrade_without_a_body_is_an_ordinary_request(
    client: Client, method: bytes
) -> None:
    await client.send(method + b" /early HTTP/1.1\r\n" + HOST + WEBSOCKET + b"\r\n")
    if method == b"HEAD":
        assert (await client.head())[0] == 413
    else:
        assert (await client.answer())[0] == 413
    assert await client.is_open()


@pytest.mark.parametrize(
    ("version", "connection"), [(b"1.1", b"upgrade, close"), (b"1.0", b"upgrade")]
)
async def test_an_upgrade_on_the_last_request_of_a_connection(
    clients: Clients, client: Client, version: bytes, connection: bytes
) -> None:
    fields = b"Connection: %s\r\nUpgrade: h2c\r\n" % connection
    request = post(fields, by_length(b"abc")).replace(b"1.1", version, 1)
    await client.send(request + GET)
    assert (await client.answer())[0] == 200
    assert await client.rest() == b""
    assert clients.seen == [b"abc"]


async def test_the_application_sees_every_other_field(clients: Clients, client: Client) -> None:
    fields = b"X-Empty:\r\nX-Text:  a\xe9: b \r\nCookie: a=b\r\nCookie: c=d\r\n"
    await client.send(b"GET /path?a=%20b HTTP/1.1\r\n" + HOST + fields + H2C + b"\r\n")
    assert (await client.answer())[0] == 200
    [scope] = clients.scopes
    assert (scope["path"], scope["query_string"]) == ("/path", b"a=%20b")
    assert scope["headers"][:5] == [
        (b"host", b"test"),
        (b"x-empty", b""),
        (b"x-text", b"a\xe9: b "),
        (b"cookie", b"a=b"),
        (b"cookie", b"c=d"),
    ]
    assert b"upgrade" not in dict(scope["headers"])


async def test_an_early_answer_to_an_upgrade_leaves_the_connection_usable(client: Client) -> None:
    request = post(H2C, by_length(LARGE)).replace(b"/first", b"/early")
    await client.send(request[:2_000])
    assert (await client.answer())[0] == 413
    await client.send(request[2_000:])
    assert await client.is_open()


@pytest.mark.parametrize("value", [b"x" * 40_000, b"x" * 400_000])
async def test_a_large_upgrade_is_a_large_head(client: Client, value: bytes) -> None:
    upgrade = b"Connection: upgrade\r\nUpgrade: %s\r\n" % value
    await client.send(b"GET / HTTP/1.1\r\n" + HOST + upgrade + b"\r\n")
    assert (await client.refusal())[0] == 431


async def test_a_bad_host_is_refused_with_an_upgrade_as_well(clients: Clients) -> None:
    for hosts in (b"", HOST + HOST, b"Host: a b\r\n"):
        client = await clients.connect()
        await client.send(b"GET / HTTP/1.1\r\n" + hosts + H2C + b"\r\n")
        assert await client.refusal() == (400, "bad_request")
    assert clients.scopes == []


async def test_http_2_without_a_handshake_is_refused_once(client: Client) -> None:
    await client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9) + GET)
    assert await client.refusal() == (400, "bad_request")


@pytest.mark.parametrize("target", [b"example.com:443", b"/path"])
async def test_nobody_opens_a_tunnel(clients: Clients, client: Client, target: bytes) -> None:
    await client.send(b"CONNECT " + target + b" HTTP/1.1\r\n" + HOST + by_length(GET) + GET)
    assert await client.refusal() == (501, "not_implemented")
    assert clients.scopes == []


@pytest.mark.parametrize(
    "value",
    [
        b"gzip, chunked",
        b"GZIP ,\tChunked",
        b"identity, chunked",
        b"gzip;q=1, deflate, chunked",
        b"gzip\r\nTransfer-Encoding: chunked",
    ],
)
async def test_an_unknown_transfer_coding_is_not_implemented(
    clients: Clients, value: bytes
) -> None:
    for upgrade in (b"", H2C):
        client = await clients.connect()
        body = b"\r\n\r\n3\r\nabc\r\n0\r\n\r\n" + GET
        await client.send(post(upgrade, b"Transfer-Encoding: " + value + body))
        assert await client.refusal() == (501, "not_implemented")
    assert clients.scopes == []


@pytest.mark.parametrize(
    "fields",
    [
        b"Transfer-Encoding: gzip",
        b"Transfer-Encoding: identity",
        b"Transfer-Encoding: chunked, gzip",
        b"Transfer-Encoding: chunked, chunked",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: gzip",
        b"Transfer-Encoding: , chunked",
        b"Transfer-Encoding: chunked,",
        b"Transfer-Encoding: chunked;a=b",
        b"Transfer-Encoding: chunked;a=b, chunked",
        b"Transfer-Encoding: chunked\t",
        b"Transfer-Encoding: xchunked",
        b'Transfer-Encoding: "chunked"',
        b"Transfer-Encoding:",
        b"Transfer-Encoding:\r\n chunked",
        b"Transfer-Encoding: gzip,\r\n chunked",
        b"Transfer-Encoding: chunked\r\n ",
        b"Transfer-Encoding : chunked",
        b"Transfer-Encoding: \x0bchunked",
        b"Transfer-Encoding: chunked\r\nContent-Length: 3",
        b"Content-Length: 3\r\nTransfer-Encoding: chunked",
        b"Content-Length: 3\r\nTransfer-Encoding: identity",
        b"Content-Length: 3\r\nContent-Length: 3",
        b"Content-Length: 3\r\nContent-Length: 4",
        b"Content-Length: 3, 3",
        b"Content-Length: +3",
        b"Content-Length: -3",
        b"Content-Length: 0x3",
        b"Content-Length: 3 3",
        b"Content-Length:",
        b"Content-Length: 3\r\n 4",
        b"Content-Length: 18446744073709551619",
    ],
)
async def test_a_body_whose_end_is_in_doubt_is_refused(clients: Clients, fields: bytes) -> None:
    for upgrade in (b"", H2C):
        client = await clients.connect()
        await client.send(post(upgrade, fields + b"\r\n\r\n3\r\nabc\r\n0\r\n\r\n" + GET))
        assert await client.refusal() == (400, "bad_request")
    assert clients.scopes == []


@pytest.mark.parametrize("version", [b"1.0", b"2.0", b"0.9"])
async def test_only_http_1_1_has_transfer_codings(
    clients: Clients, client: Client, version: bytes
) -> None:
    await client.send(post(b"", in_one_chunk(b"abc")).replace(b"1.1", version, 1))
    assert await client.refusal() == (400, "bad_request")
    assert clients.scopes == []


async def test_a_trailer_is_not_taken_for_a_field_of_the_head(
    clients: Clients, client: Client
) -> None:
    start, trailer = in_one_chunk(b"abc").rsplit(b"\r\n", 1)
    await client.send(post(b"", start + b"Authorization: Bearer abc\r\n\r\n" + trailer))
    assert (await client.answer())[0] == 200
    assert b"authorization" not in dict(clients.scopes[0]["headers"])
