"""A server on the loopback interface with a small test application, and clients that send bytes."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import uvicorn
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from graceful_gunicorn import EarlyError, ServerConfig
from tests.graceful_gunicorn.raw_requests import GET

PATIENCE_SECONDS = 60
BUSY_SECONDS = 0.5
LARGE_BYTES = 10_000_000  # more than all buffers between the server and a client can hold


def render_problem(status: int, code: str, detail: str, _path: str) -> EarlyError:
    """Render an error as a problem with a request id, as a real service would."""
    problem = {"status": status, "code": code, "detail": detail, "request_id": "1"}
    body = json.dumps(problem).encode()
    media_type = (b"content-type", b"application/problem+json")
    length = (b"content-length", b"%d" % len(body))
    return EarlyError([media_type, length, (b"x-request-id", b"1")], body)


refused: Counter[str] = Counter()  # how many requests were refused, by the name of the limit
CONFIG = ServerConfig(
    check_command=(),
    render_error=render_problem,
    on_refused=lambda limit: refused.update([limit]),
)


async def eventually(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():
            await asyncio.sleep(0.001)


class Client:
    """One connection to the server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def send(self, content: bytes) -> None:
        self._writer.write(content)
        with suppress(ConnectionError):  # the server may refuse the request before it has ended
            await self._writer.drain()

    async def flood(self, content: bytes, max_bytes: int, seconds: float) -> int:
        """Send `content` repeatedly. Return how many bytes the server accepted."""
        sent = 0
        with suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(seconds):
                while sent < max_bytes:
                    self._writer.write(content)
                    await self._writer.drain()
                    sent += len(content)
        return sent

    async def response(self) -> tuple[int, dict[str, str], bytes]:
        """Read a response. Return its status, headers and body."""
        status, headers = await self.response_head()
        async with asyncio.timeout(PATIENCE_SECONDS):
            body = await self._reader.readexactly(int(headers.get("content-length", 0)))
        return status, headers, body

    async def response_head(self) -> tuple[int, dict[str, str]]:
        """Read a response up to the end of its head."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode()
        status, *lines = head.strip().split("\r\n")
        return int(status.split()[1]), dict(line.lower().split(": ", 1) for line in lines)

    async def final_error(self) -> tuple[int, str]:
        """Read an error and the end of the connection. Return the status and the code."""
        status, headers, body = await self.response()
        problem: dict[str, Any] = json.loads(body)
        assert headers["content-type"] == "application/problem+json"
        assert headers["connection"] == "close"
        assert headers["x-request-id"] == problem["request_id"]
        assert problem["status"] == status
        assert await self.read_to_end() == b""
        return status, problem["code"]

    async def read_to_end(self) -> bytes:
        """Read until the server closes the connection."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await self._reader.read()

    async def is_usable(self) -> bool:
        """Return whether the connection still answers a request."""
        await self.send(GET)
        return (await self.response())[0] == 200

    def close(self) -> None:
        self._writer.close()


class LoopbackServer:
    """The test application, what it has received, and the connections to it.

    `bodies` has an entry for each request to the default route: the body, or None if the client
    disconnected before the end of the body. `connections` are the open connections of the server.
    """

    def __init__(self) -> None:
        self.port = 0
        self.bodies: list[bytes | None] = []
        self.scopes: list[Scope] = []
        self.clients: list[Client] = []
        self.connections: set[Any] = set()
        self.busy_has_begun, self.busy_may_end = asyncio.Event(), asyncio.Event()

    async def connect(self) -> Client:
        self.clients.append(Client(*await asyncio.open_connection("127.0.0.1", self.port)))
        return self.clients[-1]

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with the length of the body, unless the path asks for something else.

        /early responds without reading the body, /large and /stream have long responses, and /busy
        blocks the event loop.
        """
        request = Request(scope, receive)
        self.scopes.append(scope)
        response: Response = PlainTextResponse("early", 413)
        if scope["path"] == "/large":
            response = PlainTextResponse(bytes(LARGE_BYTES))
        elif scope["path"] == "/stream":
            response = StreamingResponse(stream_for_a_second())
        elif scope["path"] == "/busy":
            self.busy_has_begun.set()
            await self.busy_may_end.wait()
            time.sleep(BUSY_SECONDS)  # noqa: ASYNC251 - blocks the event loop on purpose
            await asyncio.sleep(0)  # every timer that is due by now fires in the next turn
            response = PlainTextResponse("busy")
        elif scope["path"] != "/early":
            try:
                body = await request.body()
            except ClientDisconnect:
                self.bodies.append(None)
                return
            self.bodies.append(body)
            response = PlainTextResponse(str(len(body)))
        await response(scope, receive, send)


async def stream_for_a_second() -> AsyncIterator[bytes]:
    for _ in range(10):
        await asyncio.sleep(0.1)
        yield b"piece"


@asynccontextmanager
async def serving(
    protocol: type[HttpToolsProtocol], keep_alive_seconds: int = 1, app: ASGIApp | None = None
) -> AsyncIterator[LoopbackServer]:
    """Run an application in Uvicorn with the given protocol: the test application, or `app`."""
    loopback = LoopbackServer()
    config = uvicorn.Config(
        app or loopback.app,
        port=0,
        http=protocol,
        ws="none",
        interface="asgi3",
        lifespan="off",
        log_level="critical",
        access_log=False,  # as in a worker
        timeout_keep_alive=keep_alive_seconds,
    )
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    loopback.connections = server.server_state.connections
    loopback.port = server.servers[0].sockets[0].getsockname()[1]
    yield loopback
    loopback.busy_may_end.set()
    for client in loopback.clients:
        client.close()
    server.should_exit = True
    await task
