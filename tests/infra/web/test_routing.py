"""Finding a route costs the same, however many routes there are."""

import httpx2
import pytest
from fastapi import APIRouter, FastAPI, Request
from starlette.routing import BaseRoute, Match
from starlette.types import Scope

from app.infra.web.routing import RouteTable
from app.settings import Settings
from tests.application import build, client_of

Client = httpx2.AsyncClient


@pytest.fixture
def application() -> FastAPI:
    """Forty routes of other features before the one that is called."""
    app = FastAPI(redirect_slashes=False)
    for number in range(40):
        router = APIRouter(prefix=f"/v1/things{number}")
        router.get("/{thing_id}")(name)
        app.include_router(router)
    router = APIRouter(prefix="/test/notes")
    router.get("/{post_id}")(name)
    router.patch("/{post_id}")(name)
    app.include_router(router)
    app.router.middleware_stack = RouteTable(app.router)
    return app


async def name() -> str:
    return "named"


async def test_only_routes_that_can_match_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    app, tried = FastAPI(), set[str]()
    for number in range(40):
        router = APIRouter(prefix=f"/v1/things{number}")
        router.get("/{thing_id}")(name)
        for route in router.routes:

            def matches(scope: Scope, route: BaseRoute = route) -> tuple[Match, Scope]:
                tried.add(route.path)  # type: ignore[attr-defined]
                return type(route).matches(route, scope)

            monkeypatch.setattr(route, "matches", matches)
        app.include_router(router)
    app.router.middleware_stack = RouteTable(app.router)
    async with client_of(app) as client:
        assert (await client.get("/v1/things39/1")).json() == "named"
    assert tried == {"/v1/things39/{thing_id}"}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/test/notes/1", 200),
        ("PATCH", "/test/notes/1", 200),
        ("DELETE", "/test/notes/1", 405),
        ("GET", "/test/notes/1/", 404),
        ("GET", "/test/notes", 404),
        ("GET", "/v1", 404),
        ("GET", "/", 404),
        ("GET", "/v1/things39/1", 200),
    ],
)
async def test_the_answers_are_the_routers_own(
    application: FastAPI, method: str, path: str, status: int
) -> None:
    async with client_of(application) as client:
        assert (await client.request(method, path)).status_code == status


async def test_a_route_that_is_added_later_is_found(application: FastAPI) -> None:
    async with client_of(application) as client:
        assert (await client.get("/test/notes/1/later")).status_code == 404
        application.get("/test/notes/{note_id}/later")(name)
        assert (await client.get("/test/notes/1/later")).status_code == 200


async def test_the_order_of_routes_keeps_its_meaning() -> None:
    app = FastAPI()
    app.get("/{one}/{two}")(lambda: "general")
    app.get("/test/notes")(lambda: "special")
    app.router.middleware_stack = RouteTable(app.router)
    async with client_of(app) as client:
        assert (await client.get("/test/notes")).json() == "general"


async def test_the_first_path_decides_about_the_method_if_it_has_no_parameters(
    settings: Settings,
) -> None:
    app = build(settings)
    app.get("/test/lists/export")(name)
    app.post("/test/lists/export")(name)
    app.patch("/test/lists/{list_id}")(name)
    app.patch("/test/others/{list_id}")(name)
    app.get("/test/others/export")(name)
    async with client_of(app) as client:
        refused = await client.patch("/test/lists/export")
        assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD, POST")
        assert (await client.post("/test/lists/export")).status_code == 200
        assert (await client.patch("/test/lists/1")).status_code == 200
        assert (await client.patch("/test/others/export")).status_code == 200  # it comes first


async def test_a_url_can_be_made_for_a_route_of_another_router(application: FastAPI) -> None:
    @application.get("/test/notes/{note_id}/link")
    async def link(request: Request) -> str:
        return str(request.url_for("things", thing_id=7))

    router = APIRouter(prefix="/v1/others")
    router.get("/{thing_id}", name="things")(name)
    application.include_router(router)
    async with client_of(application) as client:
        assert (await client.get("/test/notes/1/link")).json() == "http://test/v1/others/7"


async def test_what_no_candidate_matches_is_for_the_whole_router() -> None:
    app = FastAPI(redirect_slashes=True)
    app.get("/test/notes")(name)
    app.router.middleware_stack = RouteTable(app.router)
    async with client_of(app) as client:
        answer = await client.get("/test/notes/")
    assert (answer.status_code, answer.headers["location"]) == (307, "http://test/test/notes")


@pytest.mark.parametrize("path", ["/test", "/test/notes", "/test/notes/login"])
async def test_a_line_feed_at_the_end_of_a_path_does_not_hide_its_route(path: str) -> None:
    """The framework answers such a request. Its rate limits must be those of the route."""
    app = FastAPI()
    app.get(path)(name)
    app.post(path)(name)
    table = app.router.middleware_stack = RouteTable(app.router)
    asked = {"type": "http", "method": "POST", "path": f"{path}\n", "headers": []}
    route, _ = table.find(asked)
    assert route is not None
    assert (route.template, route.takes("POST")) == (path, True)
    assert table.methods({**asked, "method": "PUT"}) == {"GET", "POST"}
    async with client_of(app) as client:
        assert (await client.put(f"{path}%0A")).status_code == 405
