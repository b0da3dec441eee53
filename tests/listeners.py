"""A client of an event stream that calls the application without a server."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import orjson
from fastapi import FastAPI
from starlette.types import Message

from tests.coherent_cache.worker import eventually

PATIENCE_SECONDS = 60


@dataclass(frozen=True)
class Received:
    """One server-sent event."""

    event: str
    id: int | None
    data: Any


def parse(content: bytes) -> list[Received]:
    """Return the complete events of a stream, as a browser does."""
    found = []
    for block in content.decode().split("\n\n")[:-1]:
        fields = dict(
            line.split(": ", 1) for line in block.splitlines() if not line.startswith(":")
        )
        if "data" in fields:
            event_id = int(fields["id"]) if "id" in fields else None
            found.append(Received(fields["event"], event_id, orjson.loads(fields["data"])))
    return found


class Listening:
    """A request for a stream. It reads everything at once, unless `stall` was called."""

    def __init__(
        self,
        app: FastAPI,
        url: str,
        *,
        last: object = None,
        method: str = "GET",
        client: str = "127.0.0.1",
        headers: dict[str, str] | None = None,
    ) -> None:
        self.messages: list[Message] = []
        self._left, self._reads = asyncio.Event(), asyncio.Event()
        self._reads.set()
        self._asked = False
        path, _, query = url.partition("?")
        sent = {**(headers or {}), **({} if last is None else {"last-event-id": str(last)})}
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "path": path,
            "query_string": query.encode(),
            "headers": [(name.lower().encode(), value.encode()) for name, value in sent.items()],
            "client": (client, 1),
            "server": ("test", 80),
        }
        self.task = asyncio.create_task(app(scope, self._receive, self._send))

    @property
    def status(self) -> int:
        return self.messages[0]["status"] if self.messages else 0

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.messages[0]["headers"]}

    @property
    def content(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.messages[1:])

    @property
    def events(self) -> list[Received]:
        return parse(self.content)

    @property
    def ids(self) -> list[int]:
        return [found.id for found in self.events if found.id is not None]

    @property
    def end(self) -> str | None:
        """The reason in the last event, if it is the end of the stream."""
        events = self.events
        return events[-1].data["reason"] if events and events[-1].event == "end" else None

    async def received(self, *ids: int) -> None:
        """Wait until exactly these comments have arrived."""
        await eventually(lambda: len(self.ids) >= len(ids))
        assert self.ids == list(ids)

    async def finished(self) -> None:
        """Wait for the end of the response."""
        await asyncio.wait_for(self.task, PATIENCE_SECONDS)

    def stall(self) -> None:
        """Read nothing more."""
        self._reads.clear()

    async def leave(self) -> None:
        self._left.set()
        await self.finished()

    async def _receive(self) -> Message:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        await self._reads.wait()
        self.messages.append(message)


@asynccontextmanager
async def listening(app: FastAPI, url: str, **options: Any) -> AsyncIterator[Listening]:
    """Open a stream. The client leaves at the end of the block."""
    listener = Listening(app, url, **options)
    await eventually(lambda: len(listener.messages) > 1 or listener.task.done())
    yield listener
    if not listener.task.done():
        await listener.leave()
