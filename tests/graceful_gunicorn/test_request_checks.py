"""Which heads are refused: too large, without a valid Host, or with an ambiguous body."""

import asyncio
from dataclasses import replace

import pytest

from graceful_gunicorn import protocol_class
from tests.graceful_gunicorn.loopback_server import (
    CONFIG,
    Client,
    LoopbackServer,
    eventually,
    serving,
)
from tests.graceful_gunicorn.raw_requests import (
    GET,
    H2C,
    HOST,
    header_fields,
    in_one_chunk,
    post,
    with_content_length,
)


@pytest.mark.parametrize(
    "headers",
    [
        header_fields(100),
        header_fields(50, b"x" * 650),
        b"X: " + b"x" * 40_000 + b"\r\n",
        b"X: " + b"x" * 400_000 + b"\r\n",
        header_fields(10_000),
    ],
)
async def test_a_large_head_is_refused(client: Client, headers: bytes) -> None:
    await client.send(b"GET / HTTP/1.1\r\n" + HOST + headers + b"\r\n")
    assert await client.final_error() == (431, "request_header_fields_too_large")


async def test_a_large_head_is_refused_before_it_has_ended(client: Client) -> None:
    await client.send(b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"x" * 32_768)
    assert (await client.final_error())[0] == 431


async def test_a_long_target_is_refused(client: Client) -> None:
    await client.send(b"GET /" + b"x" * 40_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n")
    assert (await client.final_error())[0] == 431


async def test_a_head_without_an_end_is_refused_while_it_is_sent(client: Client) -> None:
    await client.send(b"GET / HTTP/1.1\r\n" + HOST + b"X: ")
    for _ in range(20):
        await client.send(b"x" * 8_192)
        await asyncio.sleep(0)
    assert (await client.final_error())[0] == 431


@pytest.mark.parametrize("headers", [header_fields(99), b"X: " + b"x" * 32_000 + b"\r\n"])
async def test_a_head_within_the_limits_is_served(client: Client, headers: bytes) -> None:
    await client.send(b"GET / HTTP/1.1\r\n" + HOST + headers + b"\r\n")
    assert (await client.response())[0] == 200


@pytest.mark.parametrize(
    "more", [b"3;" + b"x" * 200_000 + b"\r\n", b"0\r\n" + header_fields(20_000)]
)
async def test_large_chunk_extensions_and_trailers_are_refused(client: Client, more: bytes) -> None:
    start = b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"
    await client.send(start)
    await asyncio.sleep(0.05)
    await client.send(more)
    assert (await client.final_error())[0] == 431


@pytest.mark.parametrize("size", [300_000, 3_000_000])
@pytest.mark.parametrize("chunk", [100, 65_536])
async def test_a_large_chunked_body_does_not_count_as_a_large_head(
    client: Client, size: int, chunk: int
) -> None:
    await client.send(b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n")
    whole = b"%x\r\n%s\r\n" % (chunk, b"x" * chunk)
    await client.send(whole * (size // chunk) + b"0\r\n\r\n" + GET)
    assert (await client.response())[2] == b"%d" % (size // chunk * chunk)
    assert (await client.response())[0] == 200


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
async def test_a_request_without_exactly_one_valid_host_is_refused(
    client: Client, hosts: bytes
) -> None:
    await client.send(b"GET / HTTP/1.1\r\n" + hosts + b"\r\n")
    assert await client.final_error() == (400, "bad_request")


@pytest.mark.parametrize("host", [b"a", b"a.example.com:8000", b"127.0.0.1:1", b"[::1]:80", b"a_b"])
async def test_a_valid_host_is_served(client: Client, host: bytes) -> None:
    await client.send(b"GET / HTTP/1.1\r\nHost: " + host + b"\r\n\r\n")
    assert (await client.response())[0] == 200


async def test_http_1_0_requires_no_host(client: Client) -> None:
    await client.send(b"GET / HTTP/1.0\r\n\r\n")
    assert (await client.response())[0] == 200


@pytest.mark.parametrize("target", [b"example.com:443", b"/path"])
async def test_the_method_connect_is_refused(
    server: LoopbackServer, client: Client, target: bytes
) -> None:
    request = b"CONNECT " + target + b" HTTP/1.1\r\n" + HOST + with_content_length(GET)
    await client.send(request + GET)
    assert await client.final_error() == (501, "not_implemented")
    assert server.scopes == []


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
async def test_an_unknown_transfer_coding_before_chunked_is_not_implemented(
    server: LoopbackServer, value: bytes
) -> None:
    for upgrade in (b"", H2C):
        client = await server.connect()
        body = b"\r\n\r\n3\r\nabc\r\n0\r\n\r\n" + GET
        await client.send(post(upgrade, b"Transfer-Encoding: " + value + body))
        assert await client.final_error() == (501, "not_implemented")
    assert server.scopes == []


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
async def test_a_body_with_an_ambiguous_end_is_refused(
    server: LoopbackServer, fields: bytes
) -> None:
    for upgrade in (b"", H2C):
        client = await server.connect()
        await client.send(post(upgrade, fields + b"\r\n\r\n3\r\nabc\r\n0\r\n\r\n" + GET))
        assert await client.final_error() == (400, "bad_request")
    assert server.scopes == []


@pytest.mark.parametrize("version", [b"1.0", b"2.0", b"0.9"])
async def test_a_transfer_encoding_is_refused_in_every_version_except_http_1_1(
    server: LoopbackServer, client: Client, version: bytes
) -> None:
    await client.send(post(b"", in_one_chunk(b"abc")).replace(b"1.1", version, 1))
    assert await client.final_error() == (400, "bad_request")
    assert server.scopes == []


async def test_padding_in_a_head_counts_and_empty_lines_before_it_do_not() -> None:
    limits = replace(CONFIG, header_bytes=1_000)
    async with serving(protocol_class(limits), keep_alive_seconds=3_600) as server:
        client = await server.connect()
        await client.send(b"\r\n" * 2_000 + GET[:20])
        await eventually(lambda: any(one._timer for one in server.connections))
        await client.send(GET[20:])
        assert (await client.response())[0] == 200
        client = await server.connect()
        await client.send(b"GET / HTTP/1.1\r\n" + HOST + b"X:" + b" " * 5_000 + b"x\r\n\r\n")
        assert (await client.final_error())[0] == 431
