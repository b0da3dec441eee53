"""Every response says who may keep it: nobody, unless its route is declared cacheable."""

import httpx2
import pytest
from fastapi import FastAPI, Response

from app.infra.web.cacheable import policy_of
from app.main import create_app
from app.settings import Settings
from tests.application import client_of
from tests.contract.callers import Caller
from tests.contract.calls import call
from tests.contract.declaration import Ids
from tests.contract.document import OPERATIONS, ROUTES, Operation
from tests.contract.features import CACHED, ENDLESS, ROWS

Client = httpx2.AsyncClient

NOBODY = "private, no-store"
ROUTES_THAT_END = sorted(ROUTES.keys() - ENDLESS)


def declared(route: str) -> str:
    """Return the Cache-Control of a success."""
    policy = policy_of(ROUTES[route].endpoint)
    return own(route) or NOBODY if policy is None else policy.cache_control


def own(route: str) -> str | None:
    """Return the Cache-Control that a route sets itself, with its errors too."""
    return ROWS[route].cache_control


@pytest.mark.parametrize("route", ROUTES_THAT_END)
async def test_a_success_says_who_may_keep_it(
    client: Client, ids: Ids, owner: Caller, route: str
) -> None:
    is_read = route.startswith("GET ")
    for control in ["", "no-cache", "no-store"] if is_read else [""]:
        response = await call(client, route, ids, owner, **{"Cache-Control": control})
        assert response.is_success
        assert response.headers.get_list("cache-control") == [declared(route)]
    # The ETag of a private answer is for If-Match: nobody may keep the answer itself.
    if "etag" in response.headers and route in CACHED:
        seen = {"If-None-Match": response.headers["etag"]}
        again = await client.get(str(response.url), headers=seen)
        assert again.status_code == 304
        assert again.headers.get_list("cache-control") == [declared(route)]


@pytest.mark.parametrize("route", ROUTES_THAT_END)
async def test_an_error_is_kept_by_nobody(client: Client, ids: Ids, route: str) -> None:
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
            assert response.headers.get_list("cache-control") in ([NOBODY], [own(route)])
    assert answers[-1].is_error


MISSING = [route.removeprefix("GET ") for route in CACHED if 404 in ROUTES[route].responses]


@pytest.mark.parametrize("path", ["/nowhere", "/docs/assets/nothing", "/v1/users/me", *MISSING])
async def test_a_missing_page_is_kept_by_nobody(client: Client, ids: Ids, path: str) -> None:
    url = path.format_map(dict.fromkeys(ids, 999_999))
    for method in ("GET", "HEAD", "OPTIONS", "POST"):
        for _ in range(2):  # the second could be from the cache
            response = await client.request(method, url)
            assert response.is_error
            assert response.headers.get_list("cache-control") == [NOBODY]


async def test_the_answer_of_a_route_that_says_nothing_is_kept_by_nobody(
    settings: Settings,
) -> None:
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
async def test_no_answer_to_a_caller_without_a_token_is_kept(
    client: Client, ids: Ids, operation: Operation
) -> None:
    if operation.needs_account:
        response = await client.request(operation.method, operation.url(ids))
        assert response.status_code == 401
        assert response.headers.get_list("cache-control") == [NOBODY]
