"""Every request is counted once, with few labels, in files that other processes can read."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import Request
from fastapi.responses import StreamingResponse
from prometheus_client import REGISTRY
from starlette.types import Message

from app.errors import Unavailable
from app.infra.observability.metrics import REFUSED, TICKS_PER_SECOND
from app.infra.web.batch_response import BatchResponse
from app.settings import Settings
from graceful_gunicorn import registry_of_all_workers
from graceful_gunicorn.multiprocess_metrics import FOLDER
from tests.application import client_of, running

Client = httpx2.AsyncClient

COUNT = """
from app.infra.observability.request_context import RequestContext
from app.infra.web.request_metrics import count_request
from coherent_cache import Source

def count(requests):
    for number in range(requests):
        current = RequestContext("id", "GET", f"/{number}")
        current.route, current.status, current.seconds = "/test/notes", 200, 0.5
        current.cache, current.statements = Source.VALKEY, ["SELECT 1", "SELECT 2"]
        count_request(current)
"""
WAIT = """
import sys

count(100)
print("counted", flush=True)
sys.stdin.read()
"""
FORK = """
import os

count(1)
for _ in range(2):
    if os.fork() == 0:
        count(100)
        os._exit(0)
assert not os.wait()[1] and not os.wait()[1]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the test an empty folder for metrics files."""
    monkeypatch.setenv(FOLDER, str(tmp_path))


def count_of(method: str, route: str, status: int) -> float:
    """Return how many such requests were counted in this process."""
    labels = {"method": method, "route": route, "status": str(status)}
    return REGISTRY.get_sample_value("http_request_duration_seconds_count", labels) or 0


def assert_counted(requests: int) -> None:
    value = registry_of_all_workers().get_sample_value
    labels = {"method": "GET", "route": "/test/notes", "status": "200"}
    duration = "http_request_duration_seconds"
    assert value(f"{duration}_bucket", {**labels, "le": "0.25"}) == 0
    assert value(f"{duration}_bucket", {**labels, "le": "0.5"}) == requests
    assert value(f"{duration}_count", labels) == requests
    assert value(f"{duration}_sum", labels) == requests / 2
    assert value("http_request_statements_count") == requests
    assert value("http_request_statements_sum") == 2 * requests
    assert value("cache_reads_total", {"result": "hit"}) == requests


def test_requests_that_a_killed_process_counted_are_not_lost(folder: None) -> None:
    command = [sys.executable, "-c", COUNT + WAIT]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == b"counted\n"
        os.kill(worker.pid, signal.SIGKILL)
    assert_counted(100)


def test_each_forked_process_counts_in_files_of_its_own(folder: None) -> None:
    subprocess.run([sys.executable, "-c", COUNT + FORK], check=True)
    assert_counted(201)


async def test_durations_are_rounded_so_that_sums_are_exact(client: Client) -> None:
    await client.get("/test/notes")
    labels = {"method": "GET", "route": "/test/notes", "status": "200"}
    total = REGISTRY.get_sample_value("http_request_duration_seconds_sum", labels)
    assert total is not None
    assert (total * TICKS_PER_SECOND).is_integer()


@pytest.mark.parametrize(
    ("method", "path", "route", "status"),
    [
        ("GET", "/test/notes", "/test/notes", 200),
        ("GET", "/test/notes?limit=5", "/test/notes", 200),
        ("HEAD", "/test/notes", "/test/notes", 200),
        ("GET", "/test/notes/999", "/test/notes/{note_id}", 404),
        ("GET", "/test/notes/0", "/test/notes/{note_id}", 422),
        ("GET", "/v1/users/me", "/v1/users/me", 401),
        ("PUT", "/test/notes", "/test/notes", 405),
        ("GET", "/nowhere/at/all", "unmatched", 404),
        ("BREW", "/nowhere/at/all", "unmatched", 404),
    ],
)
async def test_requests_are_counted_under_the_template_of_their_route(
    client: Client, method: str, path: str, route: str, status: int
) -> None:
    label = "other" if method == "BREW" else method
    for _ in range(3):  # the second response comes from the cache: no route has run
        before = count_of(label, route, status)
        await client.request(method, path)
        assert count_of(label, route, status) == before + 1


async def test_many_paths_share_few_labels(client: Client) -> None:
    await client.get("/test/notes/1000000")
    before = len(list(REGISTRY.collect()))
    series = sum(len(metric.samples) for metric in REGISTRY.collect())
    for number in range(200):
        await client.get(f"/test/notes/{1_000_001 + number}")
        await client.get(f"/nowhere/{number}")
    await client.request("BREW", "/nowhere")
    assert len(list(REGISTRY.collect())) == before
    assert sum(len(metric.samples) for metric in REGISTRY.collect()) <= series + 100


async def test_exception_is_counted_as_500(settings: Settings) -> None:
    async with running(settings) as app:

        @app.get("/broken")
        async def broken() -> None:
            raise RuntimeError

        async with client_of(app) as client:
            before = count_of("GET", "/broken", 500)
            assert (await client.get("/broken")).status_code == 500
    assert count_of("GET", "/broken", 500) == before + 1


async def test_response_that_breaks_off_is_counted_as_500(settings: Settings) -> None:
    async def half() -> AsyncIterator[bytes]:
        yield b"half"
        raise RuntimeError

    async with running(settings) as app:

        @app.get("/half")
        async def broken() -> StreamingResponse:
            return StreamingResponse(half())

        async with client_of(app) as client:
            before = count_of("GET", "/half", 500)
            await client.get("/half")
    assert count_of("GET", "/half", 500) == before + 1


REFUSALS: list[tuple[str, dict[str, Any], str, str, bytes, int]] = [
    ("time", {"request_seconds": 0.05}, "GET", "/waits", b"", 503),
    ("streams", {"streams": 0}, "GET", "/streams", b"", 503),
    ("uploads", {"uploads": 0}, "POST", "/uploads", b" ", 503),
    ("body_size", {"body_bytes": 9}, "POST", "/v1/users", b"[" + b" " * 9, 413),
    ("body_shape", {"body_values": 1}, "POST", "/v1/users", b"[1,2,3]", 422),
]


@pytest.mark.parametrize(("limit", "changes", "method", "path", "content", "status"), REFUSALS)
async def test_refusal_is_counted_under_the_name_of_its_limit(
    settings: Settings,
    limit: str,
    changes: dict[str, Any],
    method: str,
    path: str,
    content: bytes,
    status: int,
) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"piece"

    limits = settings.limits.model_copy(update=changes)
    async with running(settings.model_copy(update={"limits": limits})) as app:

        @app.get("/waits")
        async def wait() -> None:
            await asyncio.Event().wait()

        @app.get("/streams")
        async def stream() -> StreamingResponse:
            return StreamingResponse(pieces())

        @app.post("/uploads", max_body_size=4 * 1024 * 1024)
        async def upload(request: Request) -> None:
            await request.body()

        async with client_of(app) as client:
            before = REFUSED.labels(limit)._value.get()
            json = {"Content-Type": "application/json"}
            response = await client.request(method, path, content=content, headers=json)
    assert response.status_code == status
    assert REFUSED.labels(limit)._value.get() == before + 1


async def test_response_that_is_not_completed_is_counted_by_who_ended_it(
    settings: Settings,
) -> None:
    async def batches() -> AsyncGenerator[memoryview, None]:
        yield memoryview(b"half")
        raise Unavailable("The store does not answer.")

    async def leave() -> Message:
        return {"type": "http.disconnect"}

    async def send(_message: Message) -> None:
        raise AssertionError("There is no one to answer.")

    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/v1/users",
        "raw_path": b"/v1/users",
        "root_path": "",
        "query_string": b"",
        "headers": [(b"host", b"test"), (b"content-length", b"100")],
        "client": ("203.0.113.9", 1),
        "server": ("test", 80),
    }
    ended = (("GET", "/cut-off", 503), ("POST", "/v1/users", 499))
    async with running(settings) as app:

        @app.get("/cut-off")
        async def cut_off() -> BatchResponse:
            limits = app.state.batch_limits
            return BatchResponse(batches(), limits, headers={}, media_type="text/plain")

        before = [count_of(*one) for one in ended]
        async with client_of(app) as client:
            assert (await client.get("/cut-off")).text == "half"
        await app(scope, leave, send)
    assert [count_of(*one) for one in ended] == [count + 1 for count in before]
