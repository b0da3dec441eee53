"""What a client may send, and how slowly: judged over real sockets, without the application."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.infra.metrics import REFUSED
from app.infra.server.protocol import LimitedProtocol
from app.sections import ServerSettings
from tests.infra.cache.worker import eventually
from tests.infra.server.connections import GET, HOST, LARGE_BYTES, Client, Clients, serving


class Limited(LimitedProtocol):
    """With deadlines that a busy machine does not miss."""

    limits = ServerSettings(header_seconds=60, body_seconds=60, write_seconds=60)
    most_waiting = 0

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        Limited.most_waiting = max(Limited.most_waiting, len(self.pipeline))


class Impatient(Limited):
    """With short deadlines, for the tests of what happens at a deadline."""

    limits = ServerSettings(header_seconds=0.3, body_seconds=0.3, write_seconds=0.3)


@pytest.fixture
async def clients() -> AsyncIterator[Clients]:
    """A server on the loopback."""
    async with serving(Limited) as clients:
        yield clients


@pytest.fixture
async def watched_clients() -> AsyncIterator[Clients]:
    """The clients of a server with short deadlines."""
    async with serving(Impatient) as clients:
        yield clients


@pytest.fixture
async def watched(watched_clients: Clients) -> Client:
    return await watched_clients.connect()


@pytest.fixture
async def client(clients: Clients) -> Client:
    return await clients.connect()


def fields(number: int, value: bytes = b"x") -> bytes:
    return b"".join(b"X-%d: %s\r\n" % (index, value) for index in range(number))


async def test_good_requests_share_a_connection(client: Client) -> None:
    post = b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 3\r\n\r\nabc"
    await client.send(GET + post + b"\r\n" + GET)
    assert [(await client.answer())[2] for _ in range(3)] == [b"0", b"3", b"0"]


@pytest.mark.parametrize("first", [b"G", b"GET / HTTP/1.1\r\nHost: te"])
async def test_a_head_that_does_not_end_is_refused_in_time(watched: Client, first: bytes) -> None:
    await watched.send(first)
    assert await watched.refusal() == (408, "request_timeout")


async def test_a_head_that_trickles_is_refused_in_time(watched: Client) -> None:
    async def trickle() -> None:
        await watched.send(b"GET / HTTP/1.1\r\n")
        while True:
            await watched.send(b"X: y\r\n")
            await asyncio.sleep(0.05)

    trickling = asyncio.create_task(trickle())
    assert await watched.refusal() == (408, "request_timeout")
    trickling.cancel()


async def test_a_head_in_pieces_is_served(client: Client) -> None:
    for index in range(len(GET)):
        await client.send(GET[index : index + 1])
        await asyncio.sleep(0)
    assert (await client.answer())[0] == 200


async def test_an_idle_connection_is_not_touched_by_the_deadlines() -> None:
    async with serving(Impatient, keep_alive_seconds=60) as clients:
        client = await clients.connect()
        for _ in range(2):
            assert await client.is_open()
            await asyncio.sleep(0.6)  # longer than each deadline
        assert await client.is_open()


@pytest.mark.parametrize("sent", [b"", b"\r\n", GET, GET + b"\r\n"])
async def test_a_connection_on_which_nothing_is_asked_is_closed_as_an_idle_one(
    client: Client, sent: bytes
) -> None:
    await client.send(sent)
    if GET in sent:
        await client.answer()
    assert await client.rest() == b""


@pytest.mark.parametrize(
    "headers", [b"Content-Length: 9\r\n\r\nabc", b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"]
)
async def test_a_body_that_does_not_end_is_refused_in_time(
    watched_clients: Clients, watched: Client, headers: bytes
) -> None:
    await watched.send(b"POST /path HTTP/1.1\r\n" + HOST + headers)
    assert await watched.refusal() == (408, "request_timeout")
    await eventually(lambda: watched_clients.seen)
    assert watched_clients.seen == [None]  # the application was told


@pytest.mark.parametrize(
    "headers",
    [
        fields(100),
        fields(50, b"x" * 650),
        b"X: " + b"x" * 40_000 + b"\r\n",
        b"X: " + b"x" * 400_000 + b"\r\n",
        fields(10_000),
    ],
)
async def test_a_large_head_is_refused(client: Client, headers: bytes) -> None:
    await client.send(b"GET / HTTP/1.1\r\n" + HOST + headers + b"\r\n")
    assert await client.refusal() == (431, "request_header_fields_too_large")


async def test_a_large_head_is_refused_before_it_has_ended(client: Client) -> None:
    await client.send(b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"x" * 32_768)
    assert (await client.refusal())[0] == 431


async def test_a_long_target_is_refused(client: Client) -> None:
    await client.send(b"GET /" + b"x" * 40_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n")
    assert (await client.refusal())[0] == 431


async def test_a_head_without_an_end_is_refused_while_it_is_sent(client: Client) -> None:
    await client.send(b"GET / HTTP/1.1\r\n" + HOST + b"X: ")
    for _ in range(20):
        await client.send(b"x" * 8_192)
        await asyncio.sleep(0)
    assert (await client.refusal())[0] == 431


@pytest.mark.parametrize("headers", [fields(99), b"X: " + b"x" * 32_000 + b"\r\n"])
async def test_a_head_within_the_limits_is_served(client: Client, headers: bytes) -> None:
    await client.send(b"GET / HTTP/1.1\r\n" + HOST + headers + b"\r\n")
    assert (await client.answer())[0] == 200


@pytest.mark.parametrize("more", [b"3;" + b"x" * 200_000 + b"\r\n", b"0\r\n" + fields(20_000)])
async def test_what_surrounds_a_chunked_body_is_limited_as_a_head_is(
    client: Client, more: bytes
) -> None:
    start = b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"
    await client.send(start)
    await asyncio.sleep(0.05)
    await client.send(more)
    assert (await client.refusal())[0] == 431


@pytest.mark.parametrize("size", [300_000, 3_000_000])
@pytest.mark.parametrize("chunk", [100, 65_536])
async def test_a_large_body_is_no_large_head(client: Client, size: int, chunk: int) -> None:
    await client.send(b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n")
    whole = b"%x\r\n%s\r\n" % (chunk, b"x" * chunk)
    await client.send(whole * (size // chunk) + b"0\r\n\r\n" + GET)
    assert (await client.answer())[2] == b"%d" % (size // chunk * chunk)
    assert (await client.answer())[0] == 200


async def test_a_body_in_tiny_chunks_is_handed_on_in_few_pieces(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces = []

    def on_body(protocol: HttpToolsProtocol, body: bytes) -> None:
        pieces.append(body)
        hand_on(protocol, body)

    hand_on = HttpToolsProtocol.on_body
    monkeypatch.setattr(HttpToolsProtocol, "on_body", on_body)
    head = b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
    await client.send((head + b"1\r\na\r\n" * 2_000 + b"0\r\n\r\n") * 2)
    assert [(await client.answer())[2] for _ in range(2)] == [b"2000", b"2000"]
    assert b"".join(pieces) == b"a" * 4_000
    assert len(pieces) < 100


@pytest.mark.parametrize(
    "hosts",
    [
        b"",
        HOST + HOST,
        HOST + b"Host: other\r\n",
        b"Host:\r\n",
        b"Host: a b\r\n",
        b"Host: a/b\r\n",
        b"Host: a@b\r\n",
        b"Host: a:b\r\n",
        b"Host: a,b:1:2\r\n",
        b"Host: \xff\r\n",
        b"Host: [::1\r\n",
    ],
)
async def test_there_is_exactly_one_host_and_it_is_well_formed(
    client: Client, hosts: bytes
) -> None:
    await client.send(b"GET / HTTP/1.1\r\n" + hosts + b"\r\n")
    assert await client.refusal() == (400, "bad_request")


@pytest.mark.parametrize("host", [b"a", b"a.example.com:8000", b"127.0.0.1:1", b"[::1]:80", b"a_b"])
async def test_a_well_formed_host_is_served(client: Client, host: bytes) -> None:
    await client.send(b"GET / HTTP/1.1\r\nHost: " + host + b"\r\n\r\n")
    assert (await client.answer())[0] == 200


async def test_before_http_1_1_nobody_has_to_name_a_host(client: Client) -> None:
    await client.send(b"GET / HTTP/1.0\r\n\r\n")
    assert (await client.answer())[0] == 200


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
async def test_what_is_malformed_is_refused_with_a_problem(client: Client, content: bytes) -> None:
    await client.send(content)
    assert await client.refusal() == (400, "bad_request")


@pytest.mark.parametrize("second", [b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03"])
async def test_a_bad_request_does_not_spoil_the_answer_before_it(
    client: Client, second: bytes
) -> None:
    await client.send(b"GET /stream HTTP/1.1\r\n" + HOST + b"\r\n" + second)
    assert (await client.rest()).endswith(b"piece\r\n0\r\n\r\n")


async def test_the_rest_of_a_body_is_read_after_an_early_answer(client: Client) -> None:
    await client.send(b"POST /early HTTP/1.1\r\n" + HOST + b"Content-Length: 3000000\r\n\r\nabc")
    assert (await client.answer())[0] == 413
    await client.send(b"x" * 2_999_997)
    assert await client.is_open()


async def test_the_rest_of_a_body_is_not_waited_for_without_end(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.infra.server.protocol.LINGER_SECONDS", 0.1)
    await client.send(b"POST /early HTTP/1.1\r\n" + HOST + b"Content-Length: 3000000\r\n\r\nabc")
    assert (await client.answer())[0] == 413
    assert await client.rest() == b""


async def test_a_body_that_was_never_asked_for_is_not_taken_for_the_next_request(
    client: Client,
) -> None:
    expects = b"Expect: 100-continue\r\nContent-Length: 100\r\n\r\n"
    await client.send(b"POST /early HTTP/1.1\r\n" + HOST + expects)
    assert (await client.answer())[0] == 413
    assert await client.rest() == b""


async def test_refusals_are_counted(client: Client) -> None:
    counter = REFUSED.labels("malformed")._value
    before = counter.get()
    await client.send(b"\x16\x03\x01")
    await client.refusal()
    assert counter.get() == before + 1


def refused(limit: str) -> float:
    """Return how often something was refused for this reason."""
    return float(REFUSED.labels(limit)._value.get())


async def test_who_does_not_read_is_left(watched_clients: Clients) -> None:
    before = refused("write_seconds")
    client = await watched_clients.connect()
    await client.send(GET.replace(b"/", b"/large", 1))
    await eventually(lambda: refused("write_seconds") > before)
    with suppress(ConnectionError):
        assert len(await client.rest()) < LARGE_BYTES
    assert refused("write_seconds") == before + 1


async def test_what_is_read_slowly_arrives(clients: Clients) -> None:
    client = await clients.connect()
    await client.send(GET.replace(b"/", b"/large", 1))
    status, _, body = await client.answer()
    assert (status, len(body)) == (200, LARGE_BYTES)


async def test_many_requests_at_once_are_all_answered(clients: Clients) -> None:
    client = await clients.connect()
    await client.send(GET * 2_000)
    for _ in range(2_000):
        assert (await client.answer())[0] == 200


async def test_requests_are_not_taken_in_faster_than_they_are_answered(client: Client) -> None:
    Limited.most_waiting = 0
    many = 30_000
    sending = asyncio.create_task(client.send(GET * many))
    for _ in range(many):
        await client.answer()
    await sending
    assert 0 < Limited.most_waiting < many / 2


async def test_what_is_refused_behind_an_answer_is_counted_and_not_read_on(
    clients: Clients,
) -> None:
    before = refused("malformed")
    client = await clients.connect()
    await client.send(GET.replace(b"/", b"/stream", 1) + b"garbage\r\n\r\n")
    assert await client.flood(bytes(100_000), most_bytes=100_000_000, seconds=0.5) < 50_000_000
    assert refused("malformed") == before + 1


async def test_a_busy_server_reads_what_has_arrived_before_it_calls_a_head_late(
    watched_clients: Clients,
) -> None:
    client = await watched_clients.connect()
    await client.send(GET.replace(b"/", b"/busy", 1) + GET + GET[:20])
    await eventually(lambda: watched_clients.held.is_set())
    await client.send(GET[20:])
    watched_clients.go_on.set()
    assert [(await client.answer())[0] for _ in range(3)] == [200, 200, 200]
