"""Sends requests at a constant rate, and measures latency from when each one was due.

A client that waits for a response before it sends the next request hides a stall: it sends nothing
during it. wrk is such a client.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from benchmarks.load import Request

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass
class Arrivals:
    """The latencies in milliseconds, from when each request was due, and the number of errors."""

    latencies: list[float] = field(default_factory=list)
    refused: int = 0


async def constant_arrival(
    url: str,
    request: Request,
    rate: float,
    seconds: float,
    has_ended: Callable[[], bool] = lambda: False,
) -> Arrivals:
    """Send requests at a constant rate, and return how they were answered."""
    loop = asyncio.get_running_loop()
    idle: deque[Connection] = deque()
    found = Arrivals()
    place = urlsplit(url)
    message = _message(request)

    async def send(due: float) -> None:
        while True:
            if is_kept := bool(idle):
                reader, writer = idle.pop()
            else:
                reader, writer = await asyncio.open_connection(place.hostname, place.port)
            writer.write(message)
            try:
                head = await reader.readuntil(b"\r\n\r\n")
                break
            except (asyncio.IncompleteReadError, ConnectionError):
                writer.close()
                if not is_kept:  # the server has closed a connection that nobody used for a while
                    raise
        await reader.readexactly(_length(head))
        found.latencies.append((loop.time() - due) * 1e3)
        found.refused += b" 200 " not in head.partition(b"\r\n")[0]
        idle.append((reader, writer))

    started = loop.time()
    async with asyncio.TaskGroup() as tasks:
        for number in range(int(rate * seconds)):
            due = started + number / rate
            await asyncio.sleep(max(0.0, due - loop.time()))
            if has_ended():
                break
            tasks.create_task(send(due))
    for _, writer in idle:
        writer.close()
    return found


def _message(request: Request) -> bytes:
    headers = {"Host": "localhost", **(request.headers or {})}
    lines = [f"{request.method} {request.path} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def _length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    raise RuntimeError(f"A response without Content-Length: {head.decode()}")


def percentile(values: list[float], share: float) -> float:
    """Return the value that this share of the values does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
