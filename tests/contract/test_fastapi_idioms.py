"""What FastAPI's documentation, and any vendor's page, tells people to add to an app works here."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import httpx2
import pytest
from fastapi import APIRouter, Depends, FastAPI, Header, HTTPException, Request, Response
from fastapi.security import HTTPBasic, OAuth2PasswordBearer
from prometheus_client import REGISTRY
from starlette.staticfiles import StaticFiles
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.infra.dependencies import ReadSession
from app.infra.web.cacheable import cacheable
from app.infra.web.openapi import problems
from app.main import create_app
from app.settings import Settings
from coherent_cache import shows
from tests.application import client_of

Client = httpx2.AsyncClient
router = APIRouter(prefix="/things")


def current_tenant() -> str:
    return "nobody"


@router.get("/tenant")
async def read_tenant(tenant: Annotated[str, Depends(current_tenant)]) -> str:
    return tenant


@router.get("/{thing_id}")
@cacheable()
async def read_thing(thing_id: int, session: ReadSession) -> dict[str, int]:
    shows(session, f"thing:{thing_id}")
    return {"id": thing_id}


@router.post("", max_body_size=10)
async def create_thing(data: dict[str, int]) -> dict[str, int]:
    return data


@router.get("")
async def fail() -> None:
    raise RuntimeError("planted")


async def fail_too() -> None:
    raise RuntimeError("planted")


class CountingMiddleware:
    """A middleware as people write them: it counts requests and adds a header."""

    def __init__(self, app: ASGIApp, name: str) -> None:
        self.app = app
        self._name = name
        self.paths: list[str] = []
        created.append(self)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        self.paths.append(scope["path"])
        if scope["path"] == "/middleware-fails":
            raise RuntimeError("planted")

        async def send_counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                count = f"{self._name} {len(self.paths)}".encode()
                message = {**message, "headers": [*message["headers"], (b"x-count", count)]}
            await send(message)

        await self.app(scope, receive, send_counted)


created: list[CountingMiddleware] = []


class StateMiddleware:
    """A middleware that puts a fact about the client into the state of its request."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope["state"]["client"] = scope["client"][0]
        await self.app(scope, receive, send)


@asynccontextmanager
async def started(app: FastAPI) -> AsyncIterator[Client]:
    async with app.router.lifespan_context(app), client_of(app) as client:
        yield client


@pytest.fixture
def service(settings: Settings) -> FastAPI:
    created.clear()
    return create_app(settings)


def count_of(route: str, status: int) -> float:
    labels = {"method": "GET", "route": route, "status": str(status)}
    return REGISTRY.get_sample_value("http_request_duration_seconds_count", labels) or 0


async def test_include_router_takes_a_prefix_tags_and_dependencies(service: FastAPI) -> None:
    called: list[str] = []

    async def note() -> None:
        called.append("called")

    service.include_router(router, prefix="/v9", tags=["things"], dependencies=[Depends(note)])
    before = count_of("/v9/things/{thing_id}", 200)
    async with started(service) as client:
        first, second = [await client.get("/v9/things/7?_=") for _ in range(2)]
        first, second = [await client.get("/v9/things/7") for _ in range(2)]
        assert [first.json(), second.json()] == [{"id": 7}] * 2
        assert (first.headers["x-cache"], second.headers["x-cache"]) == ("MISS", "HIT-L1")
        assert called == ["called"] * 3  # for two bypasses and a miss, and not for the hit
        too_large = await client.post("/v9/things", json={"a": 1_000_000})
        assert (too_large.status_code, too_large.json()["code"]) == (413, "too_large")
        wrong_method = await client.delete("/v9/things/7")
        assert (wrong_method.status_code, wrong_method.headers["allow"]) == (405, "GET, HEAD")
    assert count_of("/v9/things/{thing_id}", 200) == before + 4
    assert service.openapi()["paths"]["/v9/things/{thing_id}"]["get"]["tags"] == ["things"]


async def test_a_router_that_is_nested_twice_works(service: FastAPI) -> None:
    outer = APIRouter(prefix="/outer")
    outer.include_router(router)
    service.include_router(outer, prefix="/v9")
    async with started(service) as client:
        for expected in ("MISS", "HIT-L1"):
            answer = await client.get("/v9/outer/things/8")
            assert (answer.json(), answer.headers["x-cache"]) == ({"id": 8}, expected)


async def test_routes_added_to_an_included_router_are_known(service: FastAPI) -> None:
    inner, outer = APIRouter(prefix="/inner"), APIRouter(prefix="/outer")
    outer.include_router(inner)
    service.include_router(outer)
    async with started(service) as client:
        assert (await client.get("/outer/inner/9")).status_code == 404
        inner.get("/{thing_id}")(cacheable()(read_thing))
        for expected in ("MISS", "HIT-L1"):
            answer = await client.get("/outer/inner/9")
            assert (answer.json(), answer.headers["x-cache"]) == ({"id": 9}, expected)
        inner.post("/{thing_id}", max_body_size=10)(create_thing)
        assert (await client.delete("/outer/inner/9")).headers["allow"] == "GET, HEAD, POST"
        inner.put("/{thing_id}", max_body_size=10)(create_thing)
        too_large = await client.put("/outer/inner/9", json={"a": 1_000_000})
        assert (too_large.status_code, too_large.json()["code"]) == (413, "too_large")
        inner.get("/{thing_id}/tenant")(read_tenant)
        assert (await client.get("/outer/inner/9/tenant")).json() == "nobody"
    assert count_of("/outer/inner/{thing_id}/tenant", 200) == 1


@pytest.mark.parametrize("statuses", [(400, 422), (400,), (404,)])
def test_a_validation_error_is_documented_as_a_problem(
    service: FastAPI, statuses: tuple[int, ...]
) -> None:
    service.get("/{name}", responses=problems(*statuses))(greet)
    responses = service.openapi()["paths"]["/{name}"]["get"]["responses"]
    assert responses.keys() == {"200", "422", "429", "503", *map(str, statuses)}
    assert responses["422"] == problems(422)[422]


async def test_the_lifespan_of_an_included_router_runs(service: FastAPI) -> None:
    events: list[str] = []

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, str]]:
        events.append(f"opened with {type(app.state.resources).__name__}")
        yield {"kept": "state"}
        events.append("closed")

    service.include_router(APIRouter(lifespan=lifespan))
    async with service.router.lifespan_context(service) as state:
        assert events == ["opened with ProcessResources"]
        assert state == {"kept": "state"}
    assert events[1:] == ["closed"]


def test_a_cacheable_route_sees_the_state_of_the_lifespan_only(settings: Settings) -> None:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, str]]:
        yield {"kept": "state"}

    @cacheable()
    async def read_state(request: Request, session: ReadSession) -> dict[str, str]:
        shows(session, "state")
        seen = {name: request.state[name] for name in request.state}
        request.state.leaked = "by a load"
        return seen

    service = create_app(settings)
    service.include_router(APIRouter(lifespan=lifespan))
    for path in ("/state/1", "/state/2"):
        service.get(path)(read_state)
    service.add_middleware(StateMiddleware)
    with TestClient(service) as client:
        for path, source in (("/state/1", "MISS"), ("/state/2", "MISS"), ("/state/2", "HIT-L1")):
            answer = client.get(path)
            assert (answer.json(), answer.headers["x-cache"]) == ({"kept": "state"}, source)
        bypass = client.get("/state/1?unknown=1")
        assert bypass.json() == {"kept": "state", "client": "testclient"}


async def test_an_added_middleware_runs_once_for_each_request(service: FastAPI) -> None:
    service.include_router(router)
    service.add_middleware(CountingMiddleware, name="own")
    async with started(service) as client:
        cached = [await client.get("/things/5") for _ in range(3)]
        assert [answer.headers["x-cache"] for answer in cached] == ["MISS", "HIT-L1", "HIT-L1"]
        assert [answer.headers["x-count"] for answer in cached] == ["own 1", "own 2", "own 3"]
        for path, status in (("/nowhere", 404), ("/things", 500), ("/livez", 200)):
            assert (await client.get(path)).status_code == status
    assert created[0].paths == ["/things/5"] * 3 + ["/nowhere", "/things", "/livez"]


async def test_added_middleware_stands_inside_of_ids_metrics_and_errors(service: FastAPI) -> None:
    service.get("/middleware-fails")(current_tenant)
    service.add_middleware(CountingMiddleware, name="own")
    before = count_of("/middleware-fails", 500)
    async with started(service) as client:
        answer = await client.get("/middleware-fails", headers={"x-request-id": "asked-by-me"})
    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    assert answer.json()["request_id"] == answer.headers["x-request-id"] == "asked-by-me"
    assert count_of("/middleware-fails", 500) == before + 1


async def test_the_middleware_added_last_is_the_outermost(service: FastAPI) -> None:
    service.add_middleware(CountingMiddleware, name="first")
    service.add_middleware(CountingMiddleware, name="last")
    async with started(service) as client:
        counts = (await client.get("/livez")).headers.get_list("x-count")
    assert counts == ["first 1", "last 1"]


async def test_applications_and_files_can_be_mounted(service: FastAPI, tmp_path: Path) -> None:
    inner = FastAPI()
    inner.get("/hello/{name}")(greet)
    service.mount("/inner", inner)
    (tmp_path / "a.txt").write_text("A file", encoding="utf-8")
    service.mount("/files", StaticFiles(directory=tmp_path))
    async with started(service) as client:
        assert (await client.get("/inner/hello/you")).json() == "Hello you"
        assert (await client.get("/files/a.txt")).text == "A file"
        assert (await client.get("/files/b.txt")).status_code == 404


async def test_a_mounted_application_is_counted_and_logged(service: FastAPI) -> None:
    inner = FastAPI()
    inner.get("/hello/{name}")(greet)
    service.mount("/inner", inner)
    before = count_of("/inner/{path}", 200)
    transport = httpx2.ASGITransport(service)  # which raises what the service does not handle
    async with (
        service.router.lifespan_context(service),
        httpx2.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        assert (await client.get("/inner/hello/you")).json() == "Hello you"
    assert count_of("/inner/{path}", 200) == before + 1


@pytest.mark.parametrize(
    ("status", "code"),
    [(400, "bad_request"), (404, "not_found"), (418, "i'm_a_teapot"), (499, "status_499")],
)
async def test_an_http_exception_keeps_its_status_and_its_detail(
    service: FastAPI, status: int, code: str
) -> None:
    async def refuse() -> None:
        raise HTTPException(status, "The stock is empty.", headers={"x-own": "1"})

    service.get("/refuse")(refuse)
    async with started(service) as client:
        answer = await client.get("/refuse")
    assert (answer.status_code, answer.headers["x-own"]) == (status, "1")
    assert (answer.json()["code"], answer.json()["detail"]) == (code, "The stock is empty.")


async def test_an_http_exception_without_a_body_has_none(service: FastAPI) -> None:
    async def nothing() -> None:
        raise HTTPException(204, headers={"x-own": "1"})

    service.get("/nothing")(nothing)
    async with started(service) as client:
        answer = await client.get("/nothing")
    assert (answer.status_code, answer.content, answer.headers["x-own"]) == (204, b"", "1")


async def test_a_scheme_of_authentication_is_the_applications_own(service: FastAPI) -> None:
    async def secret(_: Annotated[object, Depends(HTTPBasic())]) -> None:
        pass

    service.get("/secret")(secret)
    async with started(service) as client:
        answer = await client.get("/secret")
    assert (answer.status_code, answer.headers.get_list("www-authenticate")) == (401, ["Basic"])


@pytest.mark.parametrize("path", ["/fails", "/cacheable", "/middleware-fails", "/nowhere"])
async def test_an_error_of_head_has_no_body(service: FastAPI, path: str) -> None:
    service.get("/fails")(fail)
    service.get("/cacheable")(cacheable()(fail_too))
    service.add_middleware(CountingMiddleware, name="own")
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b""}

    async def send(message: Message) -> None:
        sent.append(dict(message))

    scope = {"type": "http", "method": "HEAD", "path": path, "query_string": b"", "headers": []}
    async with service.router.lifespan_context(service):
        await service(scope, receive, send)
    assert sent[0]["status"] >= 400
    assert {message["body"] for message in sent[1:]} == {b""}
    assert scope["method"] == "HEAD"  # the server asks, before it writes a body


async def test_a_route_for_a_host_is_answered_and_counted(service: FastAPI) -> None:
    inner = FastAPI()
    inner.get("/hello/{name}")(greet)
    service.host("api.example.com", inner)
    transport = httpx2.ASGITransport(service)  # which raises what reaches the server
    async with (
        service.router.lifespan_context(service),
        httpx2.AsyncClient(transport=transport, base_url="http://api.example.com") as client,
    ):
        assert (await client.get("/hello/you")).json() == "Hello you"


async def test_a_handler_of_all_exceptions_is_called(service: FastAPI) -> None:
    async def on_any_error(_request: object, error: Exception) -> Response:
        return Response(f"own page: {error}", status_code=500)

    service.get("/things")(fail)
    service.get("/cacheable")(cacheable()(fail_too))
    service.add_exception_handler(Exception, on_any_error)
    transport = httpx2.ASGITransport(service)  # which raises what reaches the server
    async with (
        service.router.lifespan_context(service),
        httpx2.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        for path in ("/things", "/cacheable", "/cacheable?unknown=1"):
            answer = await client.get(path)
            assert (answer.status_code, answer.text) == (500, "own page: planted")


async def by_header(x_tenant: Annotated[str, Header()]) -> str:
    return x_tenant


@pytest.mark.parametrize("dependency", [by_header, OAuth2PasswordBearer("/token")])
async def test_a_cacheable_route_that_reads_who_asks_does_not_start(
    service: FastAPI, dependency: Any
) -> None:
    @service.get("/mine", dependencies=[Depends(dependency)])
    @cacheable()
    async def mine() -> str:
        return "mine"

    with pytest.raises(TypeError, match="GET /mine is declared @cacheable"):
        async with service.router.lifespan_context(service):
            pass


async def greet(name: str) -> str:
    return f"Hello {name}"


async def test_dependencies_can_be_overridden(service: FastAPI) -> None:
    service.include_router(router, prefix="/v9")
    service.dependency_overrides[current_tenant] = lambda: "somebody"
    async with started(service) as client:
        assert (await client.get("/v9/things/tenant")).json() == "somebody"


async def test_a_function_middleware_and_an_exception_handler_work(service: FastAPI) -> None:
    class OutOfStock(Exception):
        pass

    async def sell() -> None:
        raise OutOfStock

    async def on_out_of_stock(_request: object, _error: Exception) -> Response:
        return Response("sold out", status_code=418)

    service.get("/sell")(sell)
    service.add_exception_handler(OutOfStock, on_out_of_stock)
    async with started(service) as client:
        answer = await client.get("/sell")
    assert (answer.status_code, answer.text) == (418, "sold out")
