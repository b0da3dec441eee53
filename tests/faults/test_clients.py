"""Clients that disconnect in the middle of a request."""

import asyncio

import pytest

from tests.faults.author import sign_up
from tests.faults.conftest import Judge, Serve
from tests.faults.postgres import Backend
from tests.faults.service import Service
from tests.faults.verdicts import GUARDED

SOCKETS = 500
SETTLING_SECONDS = 3


def request(method: str, path: str, headers: dict[str, str], length: int, sent: int) -> bytes:
    """Return a request with the first `sent` bytes of a body of `length` bytes."""
    given = {"Host": "test", "Content-Type": "application/json", **headers}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in given.items())]
    head = "\r\n".join([*lines, f"Content-Length: {length}", "", ""])
    return head.encode() + b'{"title": "T", "body": "B"}'[:sent]


async def leave(service: Service, content: bytes) -> None:
    """Send the content, and disconnect without reading the response."""
    _, writer = await asyncio.open_connection(service.address.host, service.address.port)
    writer.write(content)
    await writer.drain()
    writer.close()


async def left_behind(service: Service, backend: Backend, tasks_before: int) -> list[str]:
    """Return what the service still holds for clients that have disconnected."""
    workers = await service.each_worker("/faults/vitals")

    def sum_of(name: str) -> int:
        return sum(int(worker[name]) for worker in workers)

    held, tasks = sum_of("checked_out"), sum_of("tasks") - tasks_before
    found = [(held, "database connections still in use"), (tasks, "more tasks than before")]
    left = [f"{number} {what}" for number, what in found if number > 0]
    return left + await backend.idle_in_transaction()


@pytest.mark.faults
@pytest.mark.parametrize("control", [GUARDED, "without the cleanup after a disconnect"])
async def test_many_clients_disconnect_at_once(
    backend: Backend, serve: Serve, judge: Judge, control: str
) -> None:
    async with serve(control) as service:
        headers = (await sign_up(service.client)).headers
        before = await service.each_worker("/faults/vitals")
        kinds = [
            request("GET", "/v1/posts", headers, 0, 0),
            request("GET", "/faults/hold/0.1", headers, 0, 0),
            request("POST", "/v1/posts", headers, 27, 27),
            request("POST", "/v1/posts", headers, 27, 13),
            request("POST", "/faults/upload", headers, 27, 13),
        ]
        contents = [kinds[number % len(kinds)] for number in range(SOCKETS)]
        await asyncio.gather(*(leave(service, content) for content in contents))
        await asyncio.sleep(SETTLING_SECONDS)
        broken = await left_behind(service, backend, sum(worker["tasks"] for worker in before))
    figure = "afterwards no database connection in use, no idle transaction, no additional task"
    judge(f"{SOCKETS} clients disconnect in the middle of a request", control, figure, broken)
