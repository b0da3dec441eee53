"""A small HTTP/1.1 client: one connection, one request at a time.

httpx2 needs about a millisecond per request, which would distort measurements on shared cores. A
response gets its time when its last byte arrives, not when the waiting task runs.
"""

import asyncio
import json
import re
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from dev.address import Address

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
SOURCE = re.compile(rb"\r\nx-cache: *([\w-]+)", re.IGNORECASE)
LOCATION = re.compile(rb"\r\nlocation: *(\S+)", re.IGNORECASE)
CLOSE = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)
PATIENCE_SECONDS = 20.0
NO_ANSWER = 0


class Reply(NamedTuple):
    """A response. Status 0: the connection was cut. Times are those of time.monotonic()."""

    status: int
    sent_at: float
    came_at: float
    source: str = ""
    location: str = ""
    body: bytes = b""

    @property
    def seconds(self) -> float:
        return self.came_at - self.sent_at

    def json(self) -> Any:
        return json.loads(self.body)


class Wire(asyncio.Protocol):
    """One connection, which is opened when it is needed, and again after it was cut."""

    def __init__(self, address: Address, patience_seconds: float = PATIENCE_SECONDS) -> None:
        self._address = address
        self._patience_seconds = patience_seconds
        self._transport: asyncio.Transport | None = None
        self._received = b""
        self._awaited: asyncio.Future[tuple[bytes, bytes, float]] | None = None

    async def get(self, path: str, *, skip_memory: bool = False) -> Reply:
        """Send GET. `skip_memory` sends `Cache-Control: no-cache`."""
        control = "Cache-Control: no-cache\r\n" if skip_memory else ""
        return await self._send(f"GET {path} HTTP/1.1\r\nHost: test\r\n{control}\r\n".encode())

    async def write(
        self, method: str, path: str, headers: Mapping[str, str], content: object = None
    ) -> Reply:
        """Send JSON, or an empty body."""
        body = b"" if content is None else json.dumps(content).encode()
        given = {"Host": "test", **headers, "Content-Length": str(len(body))}
        if content is not None:
            given["Content-Type"] = "application/json"
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {text}" for name, text in given.items())]
        return await self._send("\r\n".join([*lines, "", ""]).encode() + body)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

    async def _send(self, request: bytes) -> Reply:
        loop, sent_at = asyncio.get_running_loop(), time.monotonic()
        try:
            if self._transport is None or self._transport.is_closing():
                self._received = b""
                place = (self._address.host, self._address.port)
                self._transport, _ = await loop.create_connection(lambda: self, *place)
                sent_at = time.monotonic()
            self._awaited = loop.create_future()
            self._transport.write(request)
            async with asyncio.timeout(self._patience_seconds):
                head, body, came_at = await self._awaited
        except OSError:
            self.close()
            return Reply(NO_ANSWER, sent_at, time.monotonic())
        if CLOSE.search(head):
            self.close()
        source, location = SOURCE.search(head), LOCATION.search(head)
        return Reply(
            int(head[9:12]),
            sent_at,
            came_at,
            source[1].decode() if source else "",
            location[1].decode() if location else "",
            body,
        )

    def data_received(self, data: bytes) -> None:
        """Collect a response until it is complete."""
        self._received += data
        head, end, rest = self._received.partition(b"\r\n\r\n")
        if not end or self._awaited is None or self._awaited.done():
            return
        length = LENGTH.search(head)
        if len(rest) >= (int(length[1]) if length else 0):
            self._received = b""
            self._awaited.set_result((head, rest, time.monotonic()))

    def connection_lost(self, error: Exception | None) -> None:
        """Fail the request that waits."""
        self._transport = None
        if self._awaited is not None and not self._awaited.done():
            self._awaited.set_exception(error or ConnectionResetError())
