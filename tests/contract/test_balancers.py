"""nginx and HAProxy, with the deployed configuration, in front of a service."""

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import pytest

from dev.address import Address
from tests.faults.balancer import HAPROXY, NGINX, deployed_haproxy, deployed_nginx

PATIENCE_SECONDS = 20
HOST = b"Host: test\r\n"
NOBODY = Address("127.0.0.1", 1)  # nothing listens there
OWN_ERRORS = {
    "no HTTP": (400, b"\x16\x03\x01 no HTTP at all\r\n\r\n"),
    "no host": (400, b"GET / HTTP/1.1\r\n\r\n"),
    "bad field": (400, b"GET / HTTP/1.1\r\nHost : test\r\n\r\n"),
    "two lengths": (400, b"POST / HTTP/1.1\r\n" + HOST + 2 * b"Content-Length: 3\r\n" + b"\r\nabc"),
    "outside of the root": (400, b"GET /../x HTTP/1.1\r\n" + HOST + b"\r\n"),
    "another page of its own": (404, b"GET /.nginx/problem HTTP/1.1\r\n" + HOST + b"\r\n"),
    "TRACE": (405, b"TRACE / HTTP/1.1\r\n" + HOST + b"\r\n"),
    "long address": (414, b"GET /" + 20_000 * b"x" + b" HTTP/1.1\r\n" + HOST + b"\r\n"),
    "long field": (431, b"GET / HTTP/1.1\r\n" + HOST + b"X: " + 20_000 * b"x" + b"\r\n\r\n"),
    "coding": (501, b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: gzip, chunked\r\n\r\n"),
    "version": (505, b"GET / HTTP/3.0\r\n" + HOST + b"\r\n"),
    "nobody behind it": (503, b"GET / HTTP/1.1\r\n" + HOST + b"\r\n"),
}


async def head_and_body(address: Address, content: bytes) -> tuple[bytes, bytes]:
    """Send a request, and read an answer whose length is known."""
    reader, writer = await asyncio.open_connection(address.host, address.port)
    writer.write(content)
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
            return head, await reader.readexactly(length)
    finally:
        writer.close()


@pytest.fixture
def nginx(tmp_path: Path) -> Iterator[Address]:
    """nginx in front of an address where nothing listens."""
    if NGINX is None:
        pytest.skip("nginx is not installed")
    with ExitStack() as stack:
        yield stack.enter_context(deployed_nginx([NOBODY], tmp_path))


async def test_errors_of_nginx_are_problems(nginx: Address) -> None:
    for name, (status, content) in OWN_ERRORS.items():
        head, body = await head_and_body(nginx, content)
        assert head.startswith(b"http/1.1 %d " % status), name
        assert b"content-type: application/problem+json\r\n" in head, name
        problem = json.loads(body)
        assert problem.keys() == {"type", "title", "status", "code", "detail"}, name
        assert problem["status"] == status, name
        assert (b"\r\nretry-after:" in head) == (status == 503), name
        assert (b"\r\nallow:" in head) == (status == 405), name


class Service:
    """Answers every request, with an error of its own. A request for `/stream` has no end."""

    def __init__(self) -> None:
        self.heads: list[bytes] = []
        self.left = asyncio.Event()  # the client of a stream

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        if not head.startswith(b"get /readyz"):
            self.heads.append(head)
        if head.startswith(b"get /stream"):
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nown\r\n")
            await reader.read()
            self.left.set()
            writer.close()
            return
        if b"content-length: 2" in head:
            await reader.readexactly(2)
        status = b"200 OK" if head.startswith(b"get /readyz") else b"405 No"
        writer.write(b"HTTP/1.1 %s\r\nContent-Length: 3\r\nConnection: close\r\n\r\nown" % status)
        writer.close()


@pytest.fixture(params=["nginx", "haproxy"])
async def balanced(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[tuple[Address, Service]]:
    """A balancer in front of a service that is ready."""
    program, deployed = {
        "nginx": (NGINX, deployed_nginx),
        "haproxy": (HAPROXY, deployed_haproxy),
    }[request.param]
    if program is None:
        pytest.skip(f"{request.param} is not installed")
    service = Service()
    async with await asyncio.start_server(service.serve, "127.0.0.1", 0) as server:
        instance = Address("127.0.0.1", server.sockets[0].getsockname()[1])
        running: AbstractContextManager[Address] = deployed([instance], tmp_path)
        # The balancer starts and stops in a thread, because it may send a health check meanwhile.
        front = await asyncio.to_thread(running.__enter__)
        try:
            yield front, service
        finally:
            await asyncio.to_thread(running.__exit__, None, None, None)


async def test_balancers_do_not_forward_an_upgrade(balanced: tuple[Address, Service]) -> None:
    front, service = balanced
    for upgrade in (b"h2c", b"websocket", b"foo/2"):
        fields = HOST + b"Connection: Upgrade\r\nUpgrade: %s\r\n" % upgrade
        if upgrade == b"websocket":
            fields += (
                b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            )
        await head_and_body(front, b"GET / HTTP/1.1\r\n" + fields + b"\r\n")
        await head_and_body(front, b"POST / HTTP/1.1\r\n" + fields + b"Content-Length: 2\r\n\r\nab")
    assert len(service.heads) == 6
    assert not [head for head in service.heads if b"\r\nupgrade:" in head]


FORWARDED = b"X-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: https\r\nX-Real-IP: 192.0.2.8\r\n"


async def forwarded(front: Address, service: Service) -> bytes:
    """Return the head that the service gets from a client that sends forwarding headers."""
    await head_and_body(front, b"GET / HTTP/1.1\r\n" + HOST + FORWARDED + b"\r\n")
    return service.heads[-1]


async def test_forwarding_headers_of_a_client_are_replaced(
    balanced: tuple[Address, Service],
) -> None:
    head = await forwarded(*balanced)
    assert b"\r\nx-forwarded-for: 127.0.0.1\r\n" in head
    assert b"\r\nx-forwarded-proto: http\r\n" in head
    assert b"192.0.2" not in head


@pytest.fixture
def behind_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BEHIND_PROXY", "yes")


@pytest.mark.usefixtures("behind_proxy")
@pytest.mark.parametrize("balanced", ["haproxy"], indirect=True)
async def test_forwarding_headers_of_a_proxy_are_passed_on(
    balanced: tuple[Address, Service],
) -> None:
    head = await forwarded(*balanced)
    assert b"\r\nx-forwarded-for: 192.0.2.7\r\n" in head
    assert b"\r\nx-forwarded-proto: https\r\n" in head
    assert b"x-real-ip" not in head


async def test_an_error_of_the_service_passes_unchanged(balanced: tuple[Address, Service]) -> None:
    front, _ = balanced
    head, body = await head_and_body(front, b"GET / HTTP/1.1\r\n" + HOST + b"\r\n")
    assert (head.split()[1], body) == (b"405", b"own")


def is_old_haproxy() -> bool:
    """Return whether HAProxy is older than 3.0. Compose runs a newer one."""
    assert HAPROXY is not None
    command = [HAPROXY, "-v"]
    version = subprocess.run(command, capture_output=True, encoding="utf-8", check=True).stdout
    return int(version.split("version ")[1].partition(".")[0]) < 3


async def test_service_learns_at_once_that_the_client_of_a_stream_has_left(
    balanced: tuple[Address, Service], request: pytest.FixtureRequest
) -> None:
    if request.node.callspec.params["balanced"] == "haproxy" and is_old_haproxy():
        pytest.skip("HAProxy 2 notices it when the service sends something")
    front, service = balanced
    reader, writer = await asyncio.open_connection(front.host, front.port)
    writer.write(b"GET /stream HTTP/1.1\r\n" + HOST + b"\r\n")
    async with asyncio.timeout(PATIENCE_SECONDS):
        await reader.readuntil(b"own\r\n")
        writer.close()
        await service.left.wait()
