"""No response header repeats what a client sent without a bound.

A balancer answers 502 or 503 when the head of a response exceeds its buffer (4 to 8 KiB), and may
take the server for broken.
"""

from collections.abc import AsyncIterator
from urllib.parse import parse_qsl

import httpx2
import pytest
from fastapi import FastAPI

from app.features.users.models import User
from app.settings import Settings
from tests.application import client_of, running
from tests.contract.callers import Caller
from tests.contract.calls import content
from tests.contract.declaration import Ids, World
from tests.contract.document import METHODS_BY_PATH, OPERATIONS, Operation
from tests.contract.features import ENDLESS, ROWS, populate
from tests.features.users.factory import UserFactory

Client = httpx2.AsyncClient

ORIGIN = "https://app.example.com"
MARK = "hunter2"
LENGTHS = (4_000, 30_000)
ASSET = "/docs/assets/swagger-ui.css"
PATHS = sorted({*METHODS_BY_PATH, ASSET, "/docs/assets/{mark}", "/{mark}"})

# The maximum length of each header of a response. A header without a maximum fails.
BOUNDS = {
    "accept-ranges": 10,
    "access-control-allow-credentials": 5,
    "access-control-allow-headers": 300,
    "access-control-allow-methods": 60,
    "access-control-allow-origin": len(ORIGIN),
    "access-control-expose-headers": 200,
    "access-control-max-age": 5,
    "age": 10,
    "allow": 60,
    "cache-control": 60,
    "content-disposition": 60,
    "content-encoding": 10,
    "content-length": 10,
    "content-range": 60,
    "content-security-policy": 500,
    "content-type": 100,
    "cross-origin-resource-policy": 20,
    "etag": 60,
    "last-modified": 40,
    "link": 400,
    "location": 40,
    "pragma": 8,
    "referrer-policy": 20,
    "retry-after": 5,
    "server-timing": 100,
    "vary": 120,
    "www-authenticate": 20,
    "x-accel-buffering": 5,
    "ratelimit": 100,
    "ratelimit-policy": 100,
    "x-cache": 10,
    "x-content-type-options": 10,
    "x-process-time": 20,
    "x-request-id": 64,
}
SENT = [
    *("Accept", "Accept-Encoding", "Accept-Language", "Access-Control-Request-Headers"),
    *("Access-Control-Request-Method", "Authorization", "Baggage", "Cookie", "Host", "Origin"),
    *("If-Match", "If-Modified-Since", "If-None-Match", "If-Range", "Range", "Referer"),
    *("Traceparent", "Tracestate", "User-Agent", "X-Forwarded-For", "X-Forwarded-Host"),
    *("X-Forwarded-Prefix", "X-Forwarded-Proto", "X-Request-ID", "X-Unknown"),
]


@pytest.fixture(scope="module", params=[ORIGIN, "*"])
async def service(settings: Settings, request: pytest.FixtureRequest) -> AsyncIterator[FastAPI]:
    """The application with every header that a setting can add."""
    cors = settings.cors.model_copy(update={"origins": request.param})
    timing = settings.metrics.model_copy(update={"server_timing": True})
    async with running(settings.model_copy(update={"cors": cors, "metrics": timing})) as app:
        yield app


@pytest.fixture
async def client(service: FastAPI, clean: None) -> AsyncIterator[Client]:
    async with client_of(service) as client:
        yield client


def check(response: httpx2.Response) -> None:
    """Assert that every header is known and not too long, and that none repeats the mark."""
    for name, value in response.headers.multi_items():
        assert name in BOUNDS, f"{name}: {value[:200]}"
        assert len(value) <= BOUNDS[name], f"{name}: {value[:200]}"
        assert MARK not in value, f"{name}: {value[:200]}"
    assert sum(len(name) + len(value) + 4 for name, value in response.headers.items()) < 2_000


def methods_of(path: str) -> set[str]:
    """Return the methods of a path, and two that work on every path or on none."""
    found = {"GET"} if "{mark}" in path or path == ASSET else set()
    return {*found, *METHODS_BY_PATH.get(path, ()), "OPTIONS", "PUT"}


def queries(path: str) -> list[str]:
    """Return queries with unknown parameters, and with a long value of each known parameter."""
    names = {"utm"} | {
        parameter["name"]
        for operation in OPERATIONS
        if operation.path == path
        for parameter in operation.parameters
        if parameter["in"] == "query"
    }
    long = [f"{name}={MARK * (length // len(MARK))}" for name in names for length in LENGTHS]
    zeros = [f"{name}={'0' * 4_000}1" for name in names]
    many = "&".join(f"{MARK}{number}=1" for number in range(2_000))
    return ["", *long, *zeros, many, f"limit=1&utm={MARK * 500}", f"limit=1&{MARK * 500}=1"]


@pytest.fixture
async def ids(make: UserFactory, user: User) -> Ids:
    """The ids of rows of `user`. Every list that shows one of them has more than one page."""
    world = World(make.resources, user, await make.user(), {"user_id": user.id})
    await populate(world)
    return world.ids


@pytest.mark.parametrize("path", PATHS)
async def test_no_header_repeats_a_path_or_a_query(client: Client, ids: Ids, path: str) -> None:
    for length in LENGTHS if "{mark}" in path else LENGTHS[:1]:
        url = path.format_map({**ids, "mark": MARK * (length // len(MARK))})
        for method in methods_of(path):
            for query in [] if f"{method} {path}" in ENDLESS else queries(path):
                check(await client.request(method, f"{url}?{query}"))


@pytest.mark.parametrize("path", PATHS)
async def test_no_header_repeats_a_header(client: Client, ids: Ids, path: str) -> None:
    url = path.format_map({**ids, "mark": MARK})
    for method in methods_of(path):
        for name in [] if f"{method} {path}" in ENDLESS else SENT:
            for value in (MARK * 500, f'"{MARK}"', f"{ORIGIN}.{MARK}"):
                check(await client.request(method, url, headers={name: value}))


async def test_no_answer_to_a_preflight_repeats_it(client: Client) -> None:
    for method in ("PATCH", MARK * 500):
        for headers in ("Authorization", MARK * 500):
            asked = {
                "Origin": ORIGIN,
                "Access-Control-Request-Method": method,
                "Access-Control-Request-Headers": headers,
            }
            response = await client.options(f"/v1/users/{MARK}", headers=asked)
            assert response.status_code == (
                200 if (method, headers) == ("PATCH", "Authorization") else 400
            )
            check(response)


@pytest.mark.parametrize("operation", OPERATIONS, ids=str)
async def test_no_header_of_a_success_repeats_the_request(
    client: Client, ids: Ids, owner: Caller, operation: Operation
) -> None:
    url = f"{operation.url(ids)}?utm={MARK * 500}"
    headers = {**(owner.headers or {}), "Origin": ORIGIN, "User-Agent": MARK * 500}
    response = await client.request(
        operation.method, url, headers=headers, **content(str(operation), owner)
    )
    assert response.is_success
    check(response)


LISTS = [
    operation
    for operation in OPERATIONS
    if "limit" in [parameter["name"] for parameter in operation.parameters]
]


@pytest.mark.parametrize("operation", LISTS, ids=str)
async def test_link_contains_every_parameter_of_its_route_and_no_other(
    client: Client, ids: Ids, owner: Caller, operation: Operation
) -> None:
    names = {parameter["name"] for parameter in operation.parameters if parameter["in"] == "query"}
    query_of_row = ROWS[str(operation)].query
    given = {"limit": "1"} | {name: value.format_map(ids) for name, value in query_of_row.items()}
    assert names <= {*given, "cursor"}, f"Add a value of the new parameter to `query`: {operation}"
    query = "&".join(f"{name}={given[name]}" for name in names & given.keys())
    url = f"{operation.url(ids)}?utm={MARK}&{query}&utm={MARK}&x"
    response = await client.get(url, headers=owner.headers)
    assert response.is_success, response.text
    assert "next" in response.links, f"`make_rows` makes no rows that `query` finds: {operation}"
    link = response.links["next"]["url"]
    sent = dict(parse_qsl(link.partition("?")[2]))
    assert sent == {name: given[name] for name in names & given.keys()} | {
        "cursor": response.json()["next"]
    }
    following = await client.get(link, headers=owner.headers)
    assert following.is_success
    assert set(following.links) >= {"prev"}


async def test_path_in_a_problem_is_cut(client: Client) -> None:
    for path in (f"/{MARK * 4_000}", "/" + "%F0%9F%92%A9" * 4_000):
        response = await client.get(path)
        assert response.status_code == 404
        assert path.startswith(response.json()["instance"])
        assert len(response.content) < 8_000
