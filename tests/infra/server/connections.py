"""A server on the loopback, without the application, and clients that may send it anything."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import uvicorn
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HOST = b"Host: test\r\n"
GET = b"GET / HTTP/1.1\r\n" + HOST + b"\r\n"
PATIENCE_SECONDS = 60
BUSY_SECONDS = 0.5
LARGE_BYTES = 10_000_000  # more than any buffer between the two


class Client:
    """A connection on which anything may be sent."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def send(self, content: bytes) -> None:
        self._writer.write(content)
        with suppress(ConnectionError):  # it was refused meanwhile
            await self._writer.drain()

    async def flood(self, content: bytes, most_bytes: int, seconds: float) -> int:
        """Send it again and again, and return how many bytes were taken."""
        sent = 0
        with suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(seconds):
                while sent < most_bytes:
                    self._writer.write(content)
                    await self._writer.drain()
                    sent += len(content)
        return sent

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """Read an answer: its status, its headers and its body."""
        status, headers = await self.head()
        async with asyncio.timeout(PATIENCE_SECONDS):
            body = await self._reader.readexactly(int(headers.get("content-length", 0)))
        return status, headers, body

    async def head(self) -> tuple[int, dict[str, str]]:
        """Read an answer without a body."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode()
        status, *lines = head.strip().split("\r\n")
        return int(status.split()[1]), dict(line.lower().split(": ", 1) for line in lines)

    async def refusal(self) -> tuple[int, str]:
        """Read a problem after which nothing comes."""
        status, headers, body = await self.answer()
        problem: dict[str, Any] = json.loads(body)
        assert headers["content-type"] == "application/problem+json"
        assert headers["connection"] == "close"
        assert headers["x-request-id"] == problem["request_id"]
        assert problem["status"] == status
        assert await self.rest() == b""
        return status, problem["code"]

    async def rest(self) -> bytes:
        """Read until the server closes the connection."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await self._reader.read()

    async def is_open(self) -> bool:
        await self.send(GET)
        return (await self.answer())[0] == 200

    def close(self) -> None:
        self._writer.close()


class Clients:
    """A server, and those that are connected with it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.seen: list[bytes | None] = []
        self.scopes: list[Scope] = []
        self.made: list[Client] = []
        self.held, self.go_on = asyncio.Event(), asyncio.Event()

    async def connect(self) -> Client:
        self.made.append(Client(*await asyncio.open_connection("127.0.0.1", self._port)))
        return self.made[-1]

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with the length of the body, early, as a stream, or after a busy time."""
        request = Request(scope, receive)
        self.scopes.append(scope)
        response: Response = PlainTextResponse("early", 413)
        if scope["path"] == "/large":
            response = PlainTextResponse(bytes(LARGE_BYTES))
        elif scope["path"] == "/stream":
            response = StreamingResponse(pieces())
        elif scope["path"] == "/busy":
            self.held.set()
            await self.go_on.wait()
            time.sleep(BUSY_SECONDS)  # noqa: ASYNC251 - this process is busy
            await asyncio.sleep(0)  # every timer that is due by now fires in the next turn
            response = PlainTextResponse("busy")
        elif scope["path"] != "/early":
            try:
                body = await request.body()
            except ClientDisconnect:
                self.seen.append(None)
                return
            self.seen.append(body)
            response = PlainTextResponse(str(len(body)))
        await response(scope, receive, send)


async def pieces() -> AsyncIterator[bytes]:
    for _ in range(10):
        await asyncio.sleep(0.1)
        yield b"piece"


@asynccontextmanager
async def serving(
    protocol: type[HttpToolsProtocol], keep_alive_seconds: int = 1
) -> AsyncIterator[Clients]:
    """Serve each connection with this protocol."""
    clients = Clients(0)
    config = uvicorn.Config(
        clients.app,
        port=0,
        http=protocol,
        ws="none",
        interface="asgi3",
        lifespan="off",
        log_level="critical",
        timeout_keep_alive=keep_alive_seconds,
    )
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    clients._port = server.servers[0].sockets[0].getsockname()[1]
    yield clients
    clients.go_on.set()
    for client in clients.made:
        client.close()
    server.should_exit = True
    await task
