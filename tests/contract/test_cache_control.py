"""Every response says who may keep it: nobody, unless its route is declared cacheable."""

import httpx2
import pytest
from fastapi import FastAPI, Response

from app.features.users.models import User
from app.infra.web.cacheable import policy_of
from app.main import create_app
from app.settings import Settings
from tests.application import client_of
from tests.contract.document import APPLICATION, ENDLESS, OPERATIONS, Operation, api_routes
from tests.contract.test_access import Caller, somebody
from tests.factories import Factory

Client = httpx2.AsyncClient

NOBODY = "private, no-store"
# What a route says in its own words, with its errors (RFC 6749, section 5.1).
OWN = {"POST /v1/auth/token": "no-store", "POST /v1/auth/refresh": "no-store"}
ROUTES = {
    f"{method} {route.path}": route
    for route in api_routes(APPLICATION)
    for method in route.methods or ()
}
BY_ROUTE = {str(operation): operation for operation in OPERATIONS}


def declared(route: str) -> str:
    """Return what a success of this route has to say."""
    policy = policy_of(ROUTES[route].endpoint)
    return OWN.get(route, NOBODY) if policy is None else policy.cache_control


@pytest.fixture
async def owner(client: Client, make: Factory, ids: dict[str, int]) -> Caller:
    async with make.resources.database.read() as session:
        return await somebody(client, make, await session.get_one(User, ids["user_id"]))


@pytest.mark.parametrize("route", sorted(ROUTES.keys() - ENDLESS))
async def test_a_success_says_who_may_keep_it(
    client: Client, ids: dict[str, int], owner: Caller, route: str
) -> None:
    method, path = route.split()
    url = path.format_map(ids)
    content = owner.content(BY_ROUTE.get(route))
    for control in ["", "no-cache", "no-store"] if method == "GET" else [""]:
        headers = {**(owner.headers or {}), "Cache-Control": control}
        response = await client.request(method, url, headers=headers, **content)
        assert response.is_success
        assert response.headers.get_list("cache-control") == [declared(route)]
    if "etag" in response.headers and method == "GET":
        seen = {"If-None-Match": response.headers["etag"]}
        again = await client.get(url, headers=seen)
        assert again.status_code == 304
        assert again.headers.get_list("cache-control") == [declared(route)]


@pytest.mark.parametrize("route", sorted(ROUTES.keys() - ENDLESS))
async def test_an_error_is_kept_by_nobody(client: Client, ids: dict[str, int], route: str) -> None:
    method, path = route.split()
    nowhere = path.format_map(dict.fromkeys(ids, 999_999))
    wrong = path.format_map(dict.fromkeys(ids, "x"))
    answers = [
        await client.request(method, nowhere, json={"unknown": 1}),
        await client.request(method, nowhere),
        await client.request(method, f"{wrong}?limit=x"),
        await client.request("PURGE", wrong),
    ]
    for response in answers:
        if response.is_error:
            assert response.headers.get_list("cache-control") in ([NOBODY], [OWN.get(route)])
    assert answers[-1].is_error


@pytest.mark.parametrize(
    "path", ["/nowhere", "/v1/posts/999", "/docs/assets/nothing", "/v1/users/me"]
)
async def test_what_is_not_there_is_kept_by_nobody(client: Client, path: str) -> None:
    for method in ("GET", "HEAD", "OPTIONS", "POST"):
        for _ in range(2):  # the second could be from the cache
            response = await client.request(method, path)
            assert response.is_error
            assert response.headers.get_list("cache-control") == [NOBODY]


async def test_a_route_that_says_nothing_is_kept_by_nobody(settings: Settings) -> None:
    app: FastAPI = create_app(settings)

    @app.get("/own")
    async def own(response: Response, control: str | None = None) -> str:
        if control:
            response.headers["Cache-Control"] = control
        return "own"

    @app.get("/own/broken")
    async def broken() -> None:
        raise RuntimeError("This was raised on purpose.")

    async with client_of(app) as client:
        for path in ("/own", "/own/broken"):
            assert (await client.get(path)).headers.get_list("cache-control") == [NOBODY]
        said = await client.get("/own?control=public, max-age=60")
        assert said.headers.get_list("cache-control") == ["public, max-age=60"]


@pytest.mark.parametrize("operation", OPERATIONS, ids=str)
async def test_no_answer_to_a_stranger_is_kept(
    client: Client, ids: dict[str, int], operation: Operation
) -> None:
    if operation.needs_account:
        response = await client.request(operation.method, operation.url(ids))
        assert response.status_code == 401
        assert response.headers.get_list("cache-control") == [NOBODY]
