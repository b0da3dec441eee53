"""The live board: who may see it, what its events contain, and what a viewer occupies."""

import asyncio
import re
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import orjson
import pytest
from fastapi import FastAPI
from prometheus_client import REGISTRY
from starlette.types import Message

from app.features.board import service
from app.infra.shutdown import server_shutdown
from app.infra.web.response_headers import content_hash
from app.settings import Settings
from tests.application import client_of, running
from tests.coherent_cache.worker import eventually
from tests.contract.serving import Served, serve

Client = httpx2.AsyncClient

PRODUCTION = {
    "environment": "production",
    "auth": {"secret": "long enough for production" * 2},
    "mail": {"folder": None},  # production refuses that of the tests
}
EVENTS = "/board/events"
PATIENCE_SECONDS = 60


@pytest.fixture
def served(settings: Settings, clean: None) -> Iterator[Served]:
    with serve(settings) as served:
        yield served


class Viewer:
    """A client of the event stream, without a server. It records what it is sent."""

    def __init__(self, app: FastAPI, method: str = "GET") -> None:
        self.sent: list[Message] = []
        self._left = asyncio.Event()
        self._asked = False
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "method": method,
            "path": EVENTS,
            "query_string": b"",
            "headers": [],
            "client": ("127.0.0.1", 1),
            "server": ("test", 80),
        }
        self.task = asyncio.create_task(app(scope, self._receive, self._send))

    @property
    def status(self) -> int:
        return self.sent[0]["status"] if self.sent else 0

    @property
    def events(self) -> list[dict[str, Any]]:
        bodies = [message.get("body", b"") for message in self.sent[1:]]
        return [orjson.loads(body[6:]) for body in bodies if body.startswith(b"data: ")]

    async def leave(self) -> None:
        self._left.set()
        await asyncio.wait_for(self.task, PATIENCE_SECONDS)

    async def _receive(self) -> Message:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        self.sent.append(message)


@asynccontextmanager
async def viewing(app: FastAPI, number: int = 1) -> AsyncIterator[list[Viewer]]:
    """Connect viewers and wait for the first event of each. They leave at the end of the block."""
    viewers = [Viewer(app) for _ in range(number)]
    await eventually(lambda: all(viewer.events for viewer in viewers))
    yield viewers
    for viewer in viewers:
        await viewer.leave()


def changed(settings: Settings, **sections: object) -> Settings:
    values = settings.model_dump()
    for name, section in sections.items():
        values[name] = {**values[name], **section} if isinstance(section, dict) else section
    return Settings.model_validate(values)


async def status_of(settings: Settings, path: str) -> int:
    """Return the status of a response. The request is a HEAD, because a stream has no end."""
    async with running(settings) as app, client_of(app) as client:
        return (await client.head(path)).status_code


# The page


async def test_page_loads_nothing_from_other_hosts(client: Client) -> None:
    page = (await client.get("/")).text
    assert re.findall(r"//[\w.-]+", page) == []
    addresses = re.findall(r"""(?:src|href|EventSource|fetch)\s*[=(]\s*["']([^"']+)""", page)
    assert set(addresses) == {"data:,", "board/events", "docs", "metrics"}


async def test_policy_allows_only_the_script_and_style_of_the_page(client: Client) -> None:
    response = await client.get("/")
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for element in ("script", "style"):
        [content] = re.findall(rf"<{element}>(.*?)</{element}>", response.text, re.DOTALL)
        assert f"{element}-src '{content_hash(content)}'" in policy
    assert " style=" not in response.text


async def test_page_cannot_be_shown_in_a_frame(client: Client) -> None:
    headers = (await client.get("/")).headers
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["x-content-type-options"] == "nosniff"


async def test_page_is_not_cached(client: Client) -> None:
    response = await client.get("/")
    assert response.headers.get_list("cache-control") == ["private, no-store"]
    assert "x-cache" not in response.headers


async def test_page_names_the_service_and_its_environment(settings: Settings) -> None:
    async with running(settings) as app, client_of(app) as client:
        app.title = "Orders & <b>returns</b>"
        page = (await client.get("/")).text
    assert "<title>Orders &amp; &lt;b&gt;returns&lt;/b&gt;: live board</title>" in page
    assert "<h1>Orders &amp; &lt;b&gt;returns&lt;/b&gt;</h1>" in page
    assert "development" in page


# Who may see it


@pytest.mark.slow
@pytest.mark.parametrize("path", ["/", EVENTS])
@pytest.mark.parametrize(
    ("given", "status"),
    [
        ({}, 200),
        ({"board": {"enabled": False}}, 404),
        ({"metrics": {"networks": "10.0.0.0/8"}}, 404),
        ({"metrics": {"port": 9}}, 404),
        (PRODUCTION, 404),
        ({**PRODUCTION, "board": {"enabled": True}}, 200),
        ({**PRODUCTION, "board": {"enabled": True}, "metrics": {"networks": "10.0.0.0/8"}}, 404),
    ],
)
async def test_board_is_shown_only_to_those_who_may_see_the_metrics(
    settings: Settings, clean: None, path: str, given: dict[str, object], status: int
) -> None:
    assert await status_of(changed(settings, **given), path) == status


async def test_board_is_not_in_the_openapi_document(client: Client) -> None:
    paths = (await client.get("/openapi.json")).json()["paths"]
    assert not {"/", EVENTS} & paths.keys()


# What the events contain


async def test_event_contains_earlier_requests(app: FastAPI, client: Client) -> None:
    for path in ("/test/notes", "/test/notes", "/nowhere"):
        await client.get(path)
    async with viewing(app) as [viewer]:
        [event, *_] = viewer.events
    assert event["instance"] == socket.gethostname()
    assert event["routes"]["GET /test/notes"]["buckets"][-1] >= 2
    unmatched = event["routes"]["GET unmatched"]
    assert unmatched["failed"] < unmatched["buckets"][-1]  # 404 is no failure
    assert event["cache"].keys() >= {"hit_l1", "hit", "miss", "bypass"}
    assert event["statements"] >= event["requests_with_statements"] >= 1
    assert event["bounds"][-1] is None  # infinity


async def test_exception_is_counted_as_a_server_error(settings: Settings) -> None:
    async with running(settings) as app:

        @app.get("/breaks")
        async def breaks() -> None:
            raise RuntimeError

        async with client_of(app) as client:
            await client.get("/breaks")
        async with viewing(app) as [viewer]:
            assert viewer.events[0]["routes"]["GET /breaks"]["failed"] == 1


async def test_board_probes_and_scrapes_are_not_counted(app: FastAPI, client: Client) -> None:
    for path in ("/", "/livez", "/readyz", "/metrics"):
        await client.get(path)
    async with viewing(app):
        pass
    shown = {name.partition(" ")[2] for name in service.totals(REGISTRY)["routes"]}
    assert not shown & {"/", "/livez", "/readyz", "/metrics", EVENTS}


@pytest.mark.slow
async def test_events_continue(app: FastAPI, clean: None) -> None:
    async with viewing(app) as [viewer]:
        await eventually(lambda: len(viewer.events) > 2)
        first, *_, last = viewer.events  # two viewers can share the totals of one moment
    assert last["at"] > first["at"]


@pytest.mark.slow
async def test_viewers_share_one_collection(
    app: FastAPI, clean: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    collected = 0
    collect = service.collect

    def counted() -> bytes:
        nonlocal collected
        collected += 1
        return collect()

    monkeypatch.setattr(service, "collect", counted)
    monkeypatch.setattr(service, "REUSE_SECONDS", 3_600)
    async with viewing(app, 5) as viewers:
        await eventually(lambda: all(len(viewer.events) > 2 for viewer in viewers))
    assert collected <= 1  # 0 if an earlier test has collected them


@pytest.mark.slow
async def test_time_spent_watching_is_not_counted_as_latency(app: FastAPI, clean: None) -> None:
    labels = {"method": "GET", "route": EVENTS, "status": "200"}
    name = "http_request_duration_seconds_sum"
    before = REGISTRY.get_sample_value(name, labels) or 0
    async with viewing(app) as [viewer]:
        started = time.monotonic()
        await eventually(lambda: len(viewer.events) > 2)
        watched = time.monotonic() - started
    assert (REGISTRY.get_sample_value(name, labels) or 0) - before < watched


# What a viewer occupies


async def test_number_of_viewers_is_limited(app: FastAPI, clean: None) -> None:
    async with viewing(app, service.MAX_VIEWERS):
        refused = Viewer(app)
        await asyncio.wait_for(refused.task, PATIENCE_SECONDS)
        assert refused.status == 503
    async with viewing(app) as [viewer]:
        assert viewer.status == 200


async def test_viewer_holds_no_connection_and_leaves_no_task(app: FastAPI, clean: None) -> None:
    pool = app.state.resources.database.engine.pool
    tasks = asyncio.all_tasks()
    async with viewing(app):
        assert pool.checkedout() == 0
        assert app.state.board.viewers == 1
    assert app.state.board.viewers == 0
    assert {task for task in asyncio.all_tasks() - tasks if not task.done()} == set()


async def test_head_request_for_events_ends(app: FastAPI, clean: None) -> None:
    viewer = Viewer(app, "HEAD")
    await asyncio.wait_for(viewer.task, PATIENCE_SECONDS)
    assert viewer.status == 200
    assert viewer.events == []


async def test_streams_end_when_the_server_shuts_down(settings: Settings) -> None:
    async with running(settings) as app:
        viewer = Viewer(app)
        await eventually(lambda: viewer.events)
        server_shutdown.begin()
        await asyncio.wait_for(viewer.task, PATIENCE_SECONDS)
    assert viewer.sent[-1]["more_body"] is False


def test_place_is_free_again_when_a_browser_disconnects(served: Served) -> None:
    state = served.app.state.board
    with httpx2.stream("GET", f"{served.url}{EVENTS}") as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = response.iter_lines()  # keep a reference: the response is closed with its iterator
        while not next(lines).startswith("data: "):
            pass
        assert state.viewers == 1
    deadline = time.monotonic() + PATIENCE_SECONDS
    while state.viewers and time.monotonic() < deadline:
        time.sleep(0.01)
    assert state.viewers == 0
