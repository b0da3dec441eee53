"""Another service on a free port of this machine, which behaves as a test tells it to."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Received:
    """A request that the service has received."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def sends(content: bytes) -> Answer:
    """Send these bytes."""

    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(content)
        await writer.drain()

    return answer


def replies(body: object = None, status: int = 200, **headers: str) -> Answer:
    """Send a response whose body is JSON, or these bytes."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} Reason", f"Content-Length: {len(content)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return sends("\r\n".join([*lines, "", ""]).encode() + content)


async def hangs_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Close the connection without a response."""
    writer.transport.abort()


async def hangs(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    """Never answer. This ends when the client closes the connection."""
    await reader.read()


async def never_ends(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send a body that has no end."""
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while not writer.is_closing():
        writer.write(b"1000\r\n" + b" " * 0x1000 + b"\r\n")
        await writer.drain()


@dataclass
class UpstreamServer:
    """`answers` are for the next requests, and `answer` is for all further ones."""

    url: str = ""
    answer: Answer = field(default_factory=lambda: replies({}))
    answers: list[Answer] = field(default_factory=list)
    received: list[Received] = field(default_factory=list)
    connections: int = 0
    open_connections: int = 0
    peak: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open_connections += 1
        self.peak = max(self.peak, self.open_connections)
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                while True:
                    self.received.append(await read_request(reader))
                    await (self.answers.pop(0) if self.answers else self.answer)(reader, writer)
        finally:
            self.open_connections -= 1
            writer.close()


async def read_request(reader: asyncio.StreamReader) -> Received:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().rstrip().split("\r\n")
    headers = {}
    for line in head[1:]:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    method, target, _ = head[0].split()
    return Received(method, target, headers, body)


@asynccontextmanager
async def open_upstream(host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[UpstreamServer]:
    upstream, tasks = UpstreamServer(), set[asyncio.Task[None]]()

    def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(upstream.serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(serve, host, port)
    port = server.sockets[0].getsockname()[1]
    upstream.url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    try:
        yield upstream
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
