"""Every POST of a logged-in user, outside /v1/auth, runs once for each Idempotency-Key."""

from collections.abc import Iterator

import httpx2
import pytest
from fastapi.dependencies.models import Dependant
from sqlalchemy import text

from app.features.idempotency.dependencies import IdempotentRoute, idempotent_session
from app.features.users.dependencies import TokenUser
from app.infra.resources import ProcessResources
from tests.contract.callers import Caller
from tests.contract.calls import call
from tests.contract.declaration import Ids
from tests.contract.document import BY_ROUTE, ROUTES
from tests.tables import ALL_TABLES

Client = httpx2.AsyncClient
Headers = dict[str, str]

KEY = {"Idempotency-Key": "8e03978e-40d5-43e8-bc93-6894a57f9324"}
OF_ONE_RESPONSE = {"x-request-id", "x-process-time", "ratelimit", "idempotent-replayed"}


def calls(dependant: Dependant) -> Iterator[object]:
    """Yield every function that an endpoint depends on."""
    for one in dependant.dependencies:
        yield one.call
        yield from calls(one)


POSTS = {
    route: set(calls(context.dependant))
    for route, context in ROUTES.items()
    if route.startswith("POST ") and not route.startswith("POST /v1/auth/")
}
AUTHENTICATED = sorted(
    route for route, needed in POSTS.items() if any(isinstance(one, TokenUser) for one in needed)
)


async def rows(resources: ProcessResources) -> dict[str, int]:
    """Return how many rows each table has."""
    counts = (f"SELECT '{table}' AS name, count(*) AS number FROM {table}" for table in ALL_TABLES)
    async with resources.database.read() as session:
        found = await session.execute(text(" UNION ALL ".join(counts)))
        return {row.name: row.number for row in found}


def lasting_headers(response: httpx2.Response) -> list[tuple[str, str]]:
    """Return the headers that do not differ between two responses anyway."""
    return sorted(one for one in response.headers.multi_items() if one[0] not in OF_ONE_RESPONSE)


@pytest.mark.parametrize("route", AUTHENTICATED)
def test_every_post_of_a_user_accepts_a_key(route: str) -> None:
    assert idempotent_session in POSTS[route], (
        f"{route} changes something for a user, so a client has to be able to send it again. Let "
        "it ask for `session: IdempotentSession`, from app/features/idempotency/dependencies.py."
    )
    assert isinstance(ROUTES[route].original_route, IdempotentRoute), (
        f"{route} asks for an IdempotentSession. Give its router `route_class=IdempotentRoute`."
    )
    if operation := BY_ROUTE.get(route):
        assert {"409", "422"} <= operation.answers.keys(), f"{route}: write problems(409, 422, …)."
        assert "Idempotency-Key" in {one["name"] for one in operation.parameters}


@pytest.mark.parametrize("route", AUTHENTICATED)
async def test_a_repeated_request_changes_nothing_and_has_the_same_answer(
    client: Client, resources: ProcessResources, ids: Ids, owner: Caller, route: str
) -> None:
    first = await call(client, route, ids, owner, **KEY)
    assert first.is_success, first.text
    assert "idempotent-replayed" not in first.headers
    before = await rows(resources)
    again = await call(client, route, ids, owner, **KEY)
    assert (again.status_code, again.content) == (first.status_code, first.content)
    assert lasting_headers(again) == lasting_headers(first)
    assert again.headers["idempotent-replayed"] == "true"
    assert await rows(resources) == before


@pytest.mark.parametrize("route", AUTHENTICATED)
async def test_a_key_belongs_to_the_first_request(
    client: Client, resources: ProcessResources, ids: Ids, owner: Caller, route: str
) -> None:
    assert (await call(client, route, ids, owner, **KEY)).is_success
    before = await rows(resources)
    other = await client.post(
        f"{route.split()[1].format_map(ids)}?other", headers={**(owner.headers or {}), **KEY}
    )
    # Without the body that the route needs, it is refused before its key is looked at.
    assert (other.status_code, other.json()["code"]) in [
        (422, "idempotency_key_reused"),
        (422, "invalid_request"),
    ]
    assert await rows(resources) == before


@pytest.mark.parametrize("route", AUTHENTICATED)
async def test_a_key_does_not_replace_the_token(
    client: Client, ids: Ids, owner: Caller, route: str
) -> None:
    assert (await call(client, route, ids, owner, **KEY)).is_success
    assert (await call(client, route, ids, Caller(), **KEY)).status_code == 401
