"""Who may call what, and what nobody may set. A route without a row in the table fails."""

from dataclasses import dataclass
from typing import Any

import httpx2
import pytest

from app.features.users.models import User
from app.infra.database.base import Base
from tests.contract.document import APPLICATION, ENDLESS, OPERATIONS, Operation, api_routes
from tests.factories import PASSWORD, Factory

Client = httpx2.AsyncClient

JSON = "application/json"
CALLERS = ("owner", "other", "anonymous", "deleted")
TABLE = {
    "GET /v1/posts": (200, 200, 200, 200),
    "POST /v1/posts": (201, 201, 401, 401),
    "GET /v1/posts/{post_id}": (200, 200, 200, 200),
    "PATCH /v1/posts/{post_id}": (200, 403, 401, 401),
    "DELETE /v1/posts/{post_id}": (204, 403, 401, 401),
    "GET /v1/posts/{post_id}/comments": (200, 200, 200, 200),
    "POST /v1/posts/{post_id}/comments": (201, 201, 401, 401),
    "DELETE /v1/comments/{comment_id}": (204, 403, 401, 401),
    "POST /v1/users": (201, 201, 201, 201),
    "GET /v1/users/me": (200, 200, 401, 401),
    "PATCH /v1/users/me": (200, 200, 401, 401),
    "DELETE /v1/users/me": (204, 204, 401, 401),
    "GET /v1/users/{user_id}": (200, 200, 200, 200),
    # Of these a caller owns the credentials that are in the body.
    "POST /v1/auth/token": (200, 200, 400, 400),
    "POST /v1/auth/refresh": (200, 200, 401, 401),
    "POST /v1/auth/logout": (204, 204, 204, 204),
    "GET /livez": (200, 200, 200, 200),
    "GET /readyz": (200, 200, 200, 200),
    "GET /metrics": (200, 200, 200, 200),  # from this machine
    "GET /docs": (200, 200, 200, 200),
    "GET /": (200, 200, 200, 200),
}
CASES = [(route, who) for route in TABLE for who in CALLERS]

BY_ROUTE = {str(operation): operation for operation in OPERATIONS}
NOT_YOURS = {column.name for table in Base.metadata.tables.values() for column in table.columns}
NOT_YOURS |= {"author", "owner_id", "is_admin"}


@dataclass(frozen=True)
class Caller:
    """Somebody, with all that they have."""

    email: str = "nobody@example.com"
    refresh_token: str = "made-up"
    headers: dict[str, str] | None = None

    def content(self, operation: Operation | None) -> dict[str, Any]:
        """Return the body with which they call."""
        if operation is None or operation.media_type is None:
            return {}
        if operation.name == "log_in":
            return {"data": {"username": self.email, "password": PASSWORD}}
        if operation.name in ("refresh", "log_out"):
            return {"json": {"refresh_token": self.refresh_token}}
        return {"json": operation.examples[0]}


async def somebody(client: Client, make: Factory, user: User) -> Caller:
    """Return a caller who has logged in."""
    form = {"username": user.email, "password": PASSWORD}
    token = (await client.post("/v1/auth/token", data=form)).raise_for_status().json()
    headers = {"Authorization": f"Bearer {token['access_token']}"}
    return Caller(user.email, token["refresh_token"], headers)


async def state(client: Client, ids: dict[str, int]) -> list[Any]:
    """Return what is stored of the owner, and not what the cache holds of it."""
    paths = ("/v1/users/{user_id}", "/v1/posts/{post_id}", "/v1/posts/{post_id}/comments")
    no_store = {"Cache-Control": "no-store"}
    return [(await client.get(path.format_map(ids), headers=no_store)).json() for path in paths]


@pytest.fixture
async def owner(client: Client, make: Factory, ids: dict[str, int]) -> Caller:
    async with make.resources.database.read() as session:
        return await somebody(client, make, await session.get_one(User, ids["user_id"]))


@pytest.fixture
async def callers(client: Client, make: Factory, owner: Caller) -> dict[str, Caller]:
    other = await somebody(client, make, await make.user())
    deleted = await somebody(client, make, await make.user())
    (await client.delete("/v1/users/me", headers=deleted.headers)).raise_for_status()
    return {"owner": owner, "other": other, "anonymous": Caller(), "deleted": deleted}


def test_every_route_has_a_row() -> None:
    routes = [
        (route.path, method) for route in api_routes(APPLICATION) for method in route.methods or ()
    ]
    found = {f"{method} {path}" for path, method in routes}
    assert found == TABLE.keys() | ENDLESS


@pytest.mark.parametrize(("route", "who"), CASES)
async def test_each_caller_gets_what_the_table_says(
    client: Client, ids: dict[str, int], callers: dict[str, Caller], route: str, who: str
) -> None:
    caller, before = callers[who], await state(client, ids)
    method, path = route.split()
    content = caller.content(BY_ROUTE.get(route))
    url = path.format_map(ids)
    response = await client.request(method, url, headers=caller.headers, **content)
    assert response.status_code == TABLE[route][CALLERS.index(who)], response.text
    if response.is_error:
        assert await state(client, ids) == before


# The form of a login is OAuth2's, whose unknown fields are ignored; nothing of it is written.
WRITES = [name for name, operation in BY_ROUTE.items() if operation.media_type == JSON]


@pytest.mark.parametrize("route", WRITES)
async def test_nobody_sets_what_is_not_theirs(
    client: Client, ids: dict[str, int], owner: Caller, route: str
) -> None:
    operation, before = BY_ROUTE[route], await state(client, ids)
    for name in NOT_YOURS - operation.body["properties"].keys():
        body = {**owner.content(operation)["json"], name: 1}
        url = operation.url(ids)
        response = await client.request(operation.method, url, headers=owner.headers, json=body)
        assert response.status_code == 422, name
        assert [error["type"] for error in response.json()["errors"]] == ["extra_forbidden"]
    assert await state(client, ids) == before
