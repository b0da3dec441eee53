"""Behind a proxy that strips a prefix, every link contains the prefix."""

import re
from collections.abc import AsyncIterator
from urllib.parse import urljoin

import httpx2
import pytest
from fastapi import FastAPI, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from app.main import create_app
from app.settings import Settings, load_settings
from tests.application import client_of, running
from tests.cached_app import patient_app, settled
from tests.contract.document import DOCUMENT
from tests.features.users.factory import PASSWORD
from tests.sample.factory import NoteFactory

Client = httpx2.AsyncClient

PREFIX = "/api/v2"
NO_CACHE = {"Cache-Control": "no-cache"}


class StrippingProxy:
    """Remove the prefix from requests, and pass them on."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["path"].startswith(f"{PREFIX}/"), "A link leads past the proxy."
        stripped = scope["path"].removeprefix(PREFIX)
        await self.app({**scope, "path": stripped, "raw_path": stripped.encode()}, receive, send)


def with_prefix(settings: Settings, prefix: str = PREFIX) -> Settings:
    server = settings.server.model_copy(update={"root_path": prefix})
    return settings.model_copy(update={"server": server})


@pytest.fixture(scope="module")
async def service(settings: Settings) -> AsyncIterator[FastAPI]:
    async with patient_app(with_prefix(settings)) as app:
        yield app


@pytest.fixture
async def client(service: FastAPI, clean: None) -> AsyncIterator[Client]:
    async with client_of(StrippingProxy(service)) as client:
        yield client


@pytest.fixture
def make(service: FastAPI, clean: None) -> NoteFactory:
    return NoteFactory(service.state.resources)


async def test_location_leads_to_the_new_resource(client: Client) -> None:
    new = {"email": "new@example.com", "name": "New", "password": PASSWORD}
    user = await client.post(f"{PREFIX}/v1/users", json=new)
    assert user.headers["location"] == f"{PREFIX}/v1/users/{user.json()['id']}"
    assert (await client.get(user.headers["location"])).json()["name"] == "New"
    document = (await client.get(f"{PREFIX}/openapi.json")).json()
    flow = document["components"]["securitySchemes"]["password"]["flows"]["password"]
    assert flow["tokenUrl"] == f"{PREFIX}/v1/auth/token"
    form = {"username": "new@example.com", "password": PASSWORD}
    token = (await client.post(flow["tokenUrl"], data=form)).json()["access_token"]
    headers = {"Authorization": f"Bearer {token}"}
    note = {"title": "T", "body": "B"}
    created = await client.post(f"{PREFIX}/test/notes", json=note, headers=headers)
    assert created.headers["location"] == f"{PREFIX}/test/notes/{created.json()['id']}"
    assert (await client.get(created.headers["location"])).json() == created.json()


async def test_every_link_of_every_list_contains_the_prefix(
    client: Client, make: NoteFactory
) -> None:
    author = await make.user()
    [note, *_] = await make.notes(3, author)
    await make.replies(3, note)
    for url in (
        "/test/notes?limit=1",
        f"/test/notes?author_id={author.id}&limit=1",
        f"/test/notes/{note.id}/replies?limit=1",
    ):
        for headers in ({}, {}, NO_CACHE, {"X-Forwarded-Prefix": "/evil"}):  # loaded, then kept
            first = await client.get(PREFIX + url, headers=headers)
            assert first.links["next"]["url"].startswith(f"{PREFIX}/test/notes")
        second = await client.get(first.links["next"]["url"])
        assert set(second.links) == {"next", "prev"}
        assert second.json()["items"] != first.json()["items"]
        back = await client.get(second.links["prev"]["url"])
        assert back.json()["items"] == first.json()["items"]


async def test_cached_answers_do_not_contain_the_prefix(
    client: Client, service: FastAPI, make: NoteFactory, settings: Settings
) -> None:
    # An application that starts after the rows were created may invalidate them again.
    async with patient_app(settings) as app, client_of(app) as direct:
        await make.notes(2)
        await settled(service)
        there = await client.get(f"{PREFIX}/test/notes?limit=1")
        here = await direct.get("/test/notes?limit=1", headers=NO_CACHE)
    assert here.headers["x-cache"] == "HIT"
    assert here.links["next"]["url"] == there.links["next"]["url"].removeprefix(PREFIX)


async def test_documentation_works_behind_the_proxy(client: Client) -> None:
    page = await client.get(f"{PREFIX}/docs")
    addresses = re.findall(r"""(?:src|href|url)\s*[=:]\s*["']([^"']+)""", page.text)
    assert len(addresses) == 4
    for address in addresses:
        assert (await client.get(urljoin(f"{PREFIX}/docs", address))).is_success, address
    document = (await client.get(f"{PREFIX}/openapi.json")).json()
    assert document["servers"] == [{"url": PREFIX}]
    assert document["paths"] == DOCUMENT["paths"]


async def test_problem_contains_the_path_without_the_prefix(client: Client) -> None:
    assert (await client.get(f"{PREFIX}/nowhere")).json()["instance"] == "/nowhere"


async def test_request_headers_cannot_set_the_prefix(settings: Settings, client: Client) -> None:
    async with running(settings) as app, client_of(app) as direct:
        await NoteFactory(app.state.resources).notes(2)
        for name in ("X-Forwarded-Prefix", "X-Script-Name", "X-Original-URI", "Forwarded"):
            answer = await direct.get("/test/notes?limit=1", headers={name: "/evil"})
            assert answer.links["next"]["url"].startswith("/test/notes?")
        document = (await direct.get("/openapi.json")).json()
    assert document == DOCUMENT
    assert "servers" not in document


async def test_links_to_other_hosts_are_not_changed(settings: Settings) -> None:
    app = create_app(with_prefix(settings))

    @app.get("/elsewhere")
    async def elsewhere(response: Response, to: str) -> None:
        response.headers["Location"] = to
        response.headers["Link"] = f'<{to}>; rel="a", </b>; rel="b"'

    async with client_of(app) as client:
        for to in ("https://example.com/a", "//example.com/a", "relative"):
            answer = await client.get(f"/elsewhere?to={to}")
            assert answer.headers["location"] == to
            assert answer.headers["link"] == f'<{to}>; rel="a", <{PREFIX}/b>; rel="b"'


@pytest.mark.parametrize("value", ["", "/api", "/api/v2", "/a.b/~c_d-e", "/v1", "/..a"])
def test_valid_prefix_is_accepted(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("SERVER_ROOT_PATH", value)
    assert load_settings().server.root_path == value


@pytest.mark.parametrize(
    "value",
    [
        *("api", "/", "/api/", "//api", "/api//v2", "/api?x=1", "/api#x", "/a b", "/%61", "/ü"),
        *("https://example.com/api", "/..", "/../api", "/a/./b", "/a\\b", f"/{'a' * 100}", "/a\n"),
    ],
)
def test_invalid_prefix_is_refused_at_start_up(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("SERVER_ROOT_PATH", value)
    with pytest.raises(SystemExit, match="SERVER_ROOT_PATH"):
        load_settings()
