"""A client that does not read the end of a response does not keep its connection."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest
import uvicorn
from starlette.responses import PlainTextResponse

from graceful_gunicorn.connection_draining import DrainingProtocol
from graceful_gunicorn.protocol import protocol_class
from graceful_gunicorn.server import Server
from graceful_gunicorn.shared_state import SHARED_STATE
from graceful_gunicorn.unread_responses import UnreadResponses
from tests.graceful_gunicorn.loopback_server import CONFIG, Client, eventually, refused
from tests.graceful_gunicorn.raw_requests import HOST

# The system takes a part of the response, and the rest does not fill the write buffer.
SYSTEM_BYTES, RESPONSE_BYTES = 4_096, 60_000
GET_AND_CLOSE = b"GET / HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n"


@pytest.fixture
async def port() -> AsyncIterator[int]:
    """The port of a server whose clients have a second to read."""
    limits, worker = replace(CONFIG, write_seconds=1), SHARED_STATE.allocate_worker()
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        listener.setblocking(False)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SYSTEM_BYTES)
        config = uvicorn.Config(
            PlainTextResponse(bytes(RESPONSE_BYTES)),
            http=protocol_class(limits),
            ws="none",
            interface="asgi3",
            lifespan="off",
            log_level="critical",
        )
        config.load()
        server = Server(config, limits, worker, [listener])
        serving = asyncio.create_task(server.serve(sockets=[]))
        yield listener.getsockname()[1]
        server.stop_immediately()
        await serving
        worker.release()


async def connect(port: int) -> socket.socket:
    """Connect a client for which the system keeps few bytes."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SYSTEM_BYTES)
    client.setblocking(False)
    await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", port))
    return client


async def test_a_client_that_does_not_read_the_end_is_disconnected(port: int) -> None:
    before = refused["write_seconds"]
    with closing(await connect(port)) as client:
        client.send(GET_AND_CLOSE)
        await eventually(lambda: refused["write_seconds"] > before)


async def test_a_client_that_reads_gets_all_of_the_response(port: int) -> None:
    before = refused["write_seconds"]
    client = Client(*await asyncio.open_connection(sock=await connect(port)))
    await client.send(GET_AND_CLOSE)
    _, _, body = await client.response()
    assert len(body) == RESPONSE_BYTES
    assert await client.read_to_end() == b""
    client.close()
    assert refused["write_seconds"] == before


class Transport:
    is_aborted = False

    def __init__(self, *, is_closing: bool) -> None:
        self.is_closing = lambda: is_closing

    def abort(self) -> None:
        self.is_aborted = True


def test_only_a_connection_that_has_been_closing_for_too_long_is_aborted() -> None:
    """An open one may have a long download or an endless stream, or be idle."""
    unread, before = UnreadResponses(replace(CONFIG, write_seconds=3)), refused["write_seconds"]
    ending: Any = DrainingProtocol.__new__(DrainingProtocol)
    staying: Any = DrainingProtocol.__new__(DrainingProtocol)
    ending.transport, staying.transport = Transport(is_closing=True), Transport(is_closing=False)
    for _ in range(3):
        unread.abort_overdue([ending, staying])
    assert not ending.transport.is_aborted
    unread.abort_overdue([ending, staying])
    assert ending.transport.is_aborted
    assert refused["write_seconds"] == before + 1
    for _ in range(10):
        unread.abort_overdue([staying])
    assert not staying.transport.is_aborted
