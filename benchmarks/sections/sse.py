"""Event streams: the same comments through `EventStream`, and through the class of FastAPI."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from statistics import median
from typing import Any
from urllib.parse import urlsplit

import httpx2

from benchmarks.section import Data, number, table
from benchmarks.world import Target, World
from dev.terminal import say
from tests.faults.load import register

ORDER = 9
TITLE = "Event streams"
IN_QUICK = False

CLIENTS, EVENTS = 500, 20
BODY = "A comment of ordinary length. " * 7
SERVER = (
    *("uvicorn", "benchmarks.event_stream_server:app", "--http=dev.protocol:Protocol"),
    *("--ws=none", "--no-access-log", "--log-level=warning"),
)
SETTINGS = {
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

    async def open(self, url: str, path: str, number: int) -> None:
        place = urlsplit(url)
        for _ in range(number):
            reader, writer = await asyncio.open_connection(place.hostname, place.port)
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


async def cost(client: httpx2.AsyncClient, url: str, number: int, way: Way) -> float:
    """Return the CPU time of the server in microseconds for each event and client."""
    clients = Clients()
    await clients.open(url, way.path, number)
    try:
        await way.publish()  # the first event is not measured
        await clients.until(number)
        before = (await client.get("/benchmarks/cpu")).json()
        for event in range(2, EVENTS + 2):
            await way.publish()
            await clients.until(event * number)
        used = (await client.get("/benchmarks/cpu")).json() - before
    finally:
        clients.close()
    return float(used) / (EVENTS * number) * 1e6


async def run(url: str, clients: int, rounds: int) -> list[Way]:
    async with httpx2.AsyncClient(base_url=url, timeout=60) as client:
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
            Way("EventStream", f"{post}/comments/stream", write, []),
            Way("fastapi.sse.EventSourceResponse", "/benchmarks/stream", publish, []),
        ]
        for number in range(rounds):
            say(f"Round {number + 1} of {rounds}")
            for way in ways:
                way.costs.append(await cost(client, url, clients, way))
                await asyncio.sleep(1)  # until the server has noticed that the clients are gone
        return ways


def measure(world: World) -> Data:
    clients = 100 if world.effort.is_quick else CLIENTS
    settings = SETTINGS | {"EVENTS_PER_CLIENT": str(clients), "LIMITS_STREAMS": str(clients)}
    target = Target("event streams", SERVER, {**settings, "ENVIRONMENT": "development"})
    with world.serving(target) as servers:
        url = servers[target.name].url
        ways = asyncio.run(run(url, clients, world.effort.rounds))
    world.delete_new_posts()
    return {
        "clients": clients,
        "events": EVENTS,
        "cpu": {way.name: [float(f"{cost:.4g}") for cost in way.costs] for way in ways},
    }


def figures(data: Data) -> dict[str, str]:
    ours, theirs = (f"{number(median(costs))} µs" for costs in data["cpu"].values())
    return {"sse.service.cpu": ours, "sse.fastapi.cpu": theirs}


def report(data: Data) -> str:
    rows = [
        [f"`{name}`", number(median(costs)), f"{number(min(costs))}–{number(max(costs))}"]
        for name, costs in data["cpu"].items()
    ]
    head = ("class", "CPU for an event and a client, µs", "lowest to highest")
    introduction = INTRODUCTION.format(**data)
    return f"{introduction}\n\n{table(head, rows)}"


INTRODUCTION = """One process serves {events} comments, one after the other, to {clients}
clients, in turns through `EventStream` and through the class of FastAPI. The CPU time of
`EventStream` includes the request that writes the comment, and reading it from the database."""
