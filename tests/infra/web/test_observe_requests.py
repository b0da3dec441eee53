"""What is told of each request: in its headers, in the metrics, in the log."""

from collections.abc import AsyncIterator

import httpx2
import pytest
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from prometheus_client import REGISTRY

from app.infra.observability.metrics import TICKS_PER_SECOND
from app.settings import Settings
from tests.application import client_of, running
from tests.sample.factory import NoteFactory

Client = httpx2.AsyncClient


def requests(method: str, route: str, status: int) -> float:
    """Return how often such a request was counted in this process."""
    labels = {"method": method, "route": route, "status": str(status)}
    return REGISTRY.get_sample_value("http_request_duration_seconds_count", labels) or 0


async def test_every_answer_tells_its_time(client: Client) -> None:
    for path in ("/test/notes", "/test/notes", "/nowhere", "/livez", "/v1/users/me"):
        assert 0 <= float((await client.get(path)).headers["x-process-time"]) < 60


async def test_times_are_counted_in_steps_that_add_up_exactly(client: Client) -> None:
    await client.get("/test/notes")
    labels = {"method": "GET", "route": "/test/notes", "status": "200"}
    total = REGISTRY.get_sample_value("http_request_duration_seconds_sum", labels)
    assert total is not None
    assert (total * TICKS_PER_SECOND).is_integer()


async def test_in_development_the_parts_of_the_time_are_told(
    settings: Settings, make: NoteFactory
) -> None:
    note = await make.note()
    values = {**settings.model_dump(), "metrics": {}}
    async with running(Settings.model_validate(values)) as app, client_of(app) as client:
        first, second = [
            (await client.get(f"/test/notes/{note.id}")).headers["server-timing"] for _ in range(2)
        ]
    assert 'desc="1 statements"' in first
    assert "cache;desc=MISS" in first
    assert "db;" not in second
    assert "cache;desc=HIT" in second


async def test_production_keeps_the_parts_to_itself(settings: Settings, clean: None) -> None:
    values = settings.model_dump()
    values["environment"] = "production"
    values["auth"]["secret"] = "a secret that is long enough for production"
    async with running(Settings.model_validate(values)) as app, client_of(app) as client:
        headers = (await client.get("/test/notes")).headers
    assert "server-timing" not in headers
    assert "x-process-time" in headers


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
async def test_requests_are_counted_by_the_template_of_their_route(
    client: Client, method: str, path: str, route: str, status: int
) -> None:
    label = "other" if method == "BREW" else method
    for _ in range(3):  # the second is a hit that no route has seen
        before = requests(label, route, status)
        await client.request(method, path)
        assert requests(label, route, status) == before + 1


async def test_many_paths_are_few_labels(client: Client) -> None:
    await client.get("/test/notes/1000000")
    before = len(list(REGISTRY.collect()))
    series = sum(len(metric.samples) for metric in REGISTRY.collect())
    for number in range(200):
        await client.get(f"/test/notes/{1_000_001 + number}")
        await client.get(f"/nowhere/{number}")
    await client.request("BREW", "/nowhere")
    assert len(list(REGISTRY.collect())) == before
    assert sum(len(metric.samples) for metric in REGISTRY.collect()) <= series + 100


async def test_an_exception_is_counted_as_a_500(settings: Settings) -> None:
    async with running(settings) as app:

        @app.get("/broken")
        async def broken() -> None:
            raise RuntimeError

        async with client_of(app) as client:
            before = requests("GET", "/broken", 500)
            assert (await client.get("/broken")).status_code == 500
    assert requests("GET", "/broken", 500) == before + 1


async def test_an_answer_that_breaks_off_is_counted_as_a_500(settings: Settings) -> None:
    async def half() -> AsyncIterator[bytes]:
        yield b"half"
        raise RuntimeError

    async with running(settings) as app:

        @app.get("/half")
        async def broken() -> StreamingResponse:
            return StreamingResponse(half())

        async with client_of(app) as client:
            before = requests("GET", "/half", 500)
            await client.get("/half")
    assert requests("GET", "/half", 500) == before + 1


@pytest.mark.parametrize(
    ("address", "status"),
    [
        ("127.0.0.1", 200),
        ("::1", 200),
        ("::ffff:127.0.0.1", 200),
        ("8.8.8.8", 404),
        ("unknown", 404),
        ("", 404),
    ],
)
async def test_an_address_that_is_none_sees_no_metrics(
    app: FastAPI, address: str, status: int
) -> None:
    transport = httpx2.ASGITransport(app, client=(address, 1))
    async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
        assert (await client.get("/metrics")).status_code == status


def test_every_diagnostic_is_counted_from_zero() -> None:
    """The first report is then an increase, which alerts."""
    for name in ("blocked_loop", "statement_budget", "leaked_connection", "lost_task"):
        assert REGISTRY.get_sample_value("guard_findings_total", {"guard": name}) is not None


@pytest.mark.parametrize(
    ("metrics", "status"),
    [({}, 200), ({"networks": "10.0.0.0/8"}, 404), ({"port": 9}, 404), ({"enabled": False}, 404)],
)
async def test_metrics_are_for_those_who_may_see_them(
    settings: Settings, metrics: dict[str, object], status: int
) -> None:
    values = {**settings.model_dump(), "metrics": metrics}
    async with running(Settings.model_validate(values)) as app, client_of(app) as client:
        response = await client.get("/metrics")
        assert "/metrics" not in (await client.get("/openapi.json")).json()["paths"]
    assert response.status_code == status
    if status == 200:
        assert "http_request_duration_seconds_bucket" in response.text
