"""A reverse proxy that forwards every header field, also `Upgrade` and `Connection`.

It shares its connections to the service among its clients, as proxies do: it takes an idle
connection, sends a request, reads one response, and returns the connection.
"""

import asyncio
import re
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from dev.address import Address

Connection = tuple[StreamReader, StreamWriter]

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)
CLOSE = re.compile(rb"\r\nconnection:[^\r]*close", re.IGNORECASE)


async def read_message(reader: StreamReader) -> tuple[bytes, bytes]:
    """Read the head and the body of a request or of a response."""
    head = await reader.readuntil(b"\r\n\r\n")
    if (length := LENGTH.search(head)) is not None:
        return head, await reader.readexactly(int(length[1]))
    body, size = b"", int(bool(CHUNKED.search(head)))
    while size:
        line = await reader.readline()
        size = int(line, 16)
        body += line + await reader.readexactly(size + 2)
    return head, body


class Forwarder:
    """Serves its clients, with as many connections to the service as are in use at once."""

    def __init__(self, service: Address) -> None:
        self._service = service
        self._idle: list[Connection] = []

    async def serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        """Serve one client until it leaves, or until the service cuts a request off."""
        with suppress(asyncio.IncompleteReadError, OSError):
            while True:
                head, body = await self._exchange(*await read_message(reader))
                writer.write(head + body)
        writer.close()

    async def _exchange(self, head: bytes, body: bytes) -> tuple[bytes, bytes]:
        place = self._service.host, self._service.port
        upstream = self._idle.pop() if self._idle else await asyncio.open_connection(*place)
        reader, writer = upstream
        try:
            writer.write(head)
            # Forward the body later than the head, as a proxy does while the body arrives.
            await asyncio.sleep(0.002)
            writer.write(body)
            answer = await read_message(reader)
        except (asyncio.IncompleteReadError, OSError):
            writer.close()
            raise
        if CLOSE.search(answer[0]):
            writer.close()
        else:
            self._idle.append(upstream)
        return answer

    def close(self) -> None:
        """Close the idle connections."""
        for _, writer in self._idle:
            writer.close()


@asynccontextmanager
async def forwarding(service: Address) -> AsyncIterator[Address]:
    """Run a proxy in front of `address`."""
    forwarder = Forwarder(service)
    async with await asyncio.start_server(forwarder.serve, "127.0.0.1", 0) as server:
        yield Address("127.0.0.1", server.sockets[0].getsockname()[1])
        forwarder.close()
