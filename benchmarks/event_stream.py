"""Measures event streams: `python -m benchmarks.event_stream`, about a minute.

One process serves the same comments to 500 clients, in turns through `EventStream` and through the
class of FastAPI. Both are behind the whole middleware. It writes benchmarks/event_stream.md.
"""

import asyncio
import os
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import httpx2

from dev.address import Address
from dev.database import upgrade
from dev.servers import embedded_servers
from dev.service import open_service, wait_until_ready
from dev.terminal import say
from tests.faults.load import free_port, register

REPORT = Path(__file__).with_name("event_stream.md")
CLIENTS, EVENTS, ROUNDS = 500, 20, 5
BODY = "A comment of ordinary length. " * 7
SERVER = (
    *("uvicorn", "benchmarks.event_stream_server:app", "--http=dev.protocol:Protocol"),
    *("--ws=none", "--no-access-log", "--log-level=warning"),
)
SETTINGS = {
    "EVENTS_PER_CLIENT": str(CLIENTS),
    "LIMITS_STREAMS": str(CLIENTS),
    "LOG_ACCESS": "false",
    "LOG_LEVEL": "WARNING",
    "RATE_LIMITS_QUOTAS": "*=1000000/1",
}

Publish = Callable[[], Awaitable[Any]]


@dataclass
class Way:
    """A way to serve the events: its stream, and a function that publishes one event."""

    name: str
    path: str
    publish: Publish
    costs: list[float]


class Clients:
    """Clients that count the events that they get."""

    def __init__(self) -> None:
        self.received = 0
        self._writers: list[asyncio.StreamWriter] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self, address: Address, path: str) -> None:
        for _ in range(CLIENTS):
            reader, writer = await asyncio.open_connection(address.host, address.port)
            writer.write(f"GET {path} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            assert b" 200 " in head.partition(b"\r\n")[0], head
            self._writers.append(writer)
            self._tasks.append(asyncio.create_task(self._read(reader)))

    async def _read(self, reader: asyncio.StreamReader) -> None:
        while data := await reader.read(65_536):
            self.received += data.count(b"\ndata: ")

    async def until(self, number: int) -> None:
        async with asyncio.timeout(60):
            while self.received < number:  # noqa: ASYNC110 - an event would cost the readers more
                await asyncio.sleep(0.002)

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        for writer in self._writers:
            writer.close()


async def measure(client: httpx2.AsyncClient, address: Address, way: Way) -> float:
    """Return the CPU time of the server in microseconds for each event and client."""
    clients = Clients()
    await clients.open(address, way.path)
    try:
        await way.publish()  # the first event is not measured
        await clients.until(CLIENTS)
        before = (await client.get("/benchmarks/cpu")).json()
        for number in range(2, EVENTS + 2):
            await way.publish()
            await clients.until(number * CLIENTS)
        used = (await client.get("/benchmarks/cpu")).json() - before
    finally:
        clients.close()
    return float(used) / (EVENTS * CLIENTS) * 1e6


async def run(address: Address) -> list[Way]:
    async with httpx2.AsyncClient(base_url=address.url, timeout=60) as client:
        _, headers = await register(client)
        content = {"json": {"title": "T", "body": "B"}, "headers": headers}
        post = (await client.post("/v1/posts", **content)).headers["location"]  # type: ignore[arg-type]

        async def write() -> Any:
            sent = {"json": {"body": BODY}, "headers": headers}
            return (await client.post(f"{post}/comments", **sent)).raise_for_status().json()  # type: ignore[arg-type]

        comment = await write()

        async def publish() -> None:
            (await client.post("/benchmarks/comments", json=comment)).raise_for_status()

        ways = [
            Way("`EventStream`", f"{post}/comments/stream", write, []),
            Way("`fastapi.sse.EventSourceResponse`", "/benchmarks/stream", publish, []),
        ]
        for number in range(ROUNDS):
            say(f"Round {number + 1} of {ROUNDS}")
            for way in ways:
                way.costs.append(await measure(client, address, way))
                await asyncio.sleep(1)  # until the server has noticed that the clients are gone
        return ways


def rows(ways: list[Way]) -> list[str]:
    return [
        "| class | CPU for an event and a client, µs | lowest to highest |",
        "|---|---|---|",
        *(
            f"| {way.name} | {median(way.costs):.0f} | {min(way.costs):.0f}–{max(way.costs):.0f} |"
            for way in ways
        ),
    ]


def main() -> None:
    os.environ.update(SETTINGS)
    with tempfile.TemporaryDirectory() as folder, embedded_servers(Path(folder)) as servers:
        upgrade(servers)
        address = Address("127.0.0.1", free_port())
        with open_service(SERVER, servers, address) as process:
            wait_until_ready(process, address, 60)
            ways = asyncio.run(run(address))
    lines = rows(ways)
    head = (
        "# Event streams\n\n`python -m benchmarks.event_stream` writes this page. One process "
        f"serves {EVENTS} comments, one after the other, to {CLIENTS} clients, in {ROUNDS} rounds. "
        "The CPU time of `EventStream` includes the request that writes the comment, and reading "
        f"it from the database. All programs share {os.cpu_count()} cores.\n\n"
    )
    REPORT.write_text(head + "\n".join(lines) + "\n", encoding="utf-8")
    say("\n".join(lines))


if __name__ == "__main__":
    main()
