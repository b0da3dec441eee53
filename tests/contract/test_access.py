"""Who may call which route, and what nobody may set. tests/features/<name>/contract.py says it."""

import httpx2
import pytest

from app.infra.database.base import Base
from tests.contract.callers import Caller, log_in
from tests.contract.calls import call, content, stored_state
from tests.contract.declaration import Ids
from tests.contract.document import BY_ROUTE, ROUTES
from tests.contract.features import ROWS, problems
from tests.features.users.factory import UserFactory

Client = httpx2.AsyncClient

JSON = "application/json"
CASES = [
    (route, who)
    for route, row in ROWS.items()
    if route in ROUTES and not row.is_endless
    for who in row.by_caller
]
NOT_YOURS = {column.name for table in Base.metadata.tables.values() for column in table.columns}
NOT_YOURS |= {"author", "owner_id", "is_admin"}


@pytest.fixture
async def callers(client: Client, make: UserFactory, owner: Caller) -> dict[str, Caller]:
    other = await log_in(client, await make.user())
    deleted = await log_in(client, await make.user())
    (await client.delete("/v1/users/me", headers=deleted.headers)).raise_for_status()
    return {"owner": owner, "other": other, "anonymous": Caller(), "deleted": deleted}


def test_every_route_has_a_complete_row() -> None:
    found = problems()
    assert not found, "\n".join(found)


@pytest.mark.parametrize(("route", "who"), CASES)
async def test_each_caller_gets_the_status_of_its_row(
    client: Client, ids: Ids, callers: dict[str, Caller], route: str, who: str
) -> None:
    before = await stored_state(client, ids)
    response = await call(client, route, ids, callers[who])
    assert response.status_code == ROWS[route].by_caller[who], response.text
    if response.is_error:
        assert await stored_state(client, ids) == before


# The form of a login is the one of OAuth 2, which ignores unknown fields. It writes none of them.
WRITES = [name for name, operation in BY_ROUTE.items() if operation.media_type == JSON]


@pytest.mark.parametrize("route", WRITES)
async def test_nobody_sets_a_field_that_is_not_theirs(
    client: Client, ids: Ids, owner: Caller, route: str
) -> None:
    operation, before = BY_ROUTE[route], await stored_state(client, ids)
    for name in NOT_YOURS - operation.body["properties"].keys():
        body = {**content(route, owner)["json"], name: 1}
        url = operation.url(ids)
        response = await client.request(operation.method, url, headers=owner.headers, json=body)
        assert response.status_code == 422, name
        assert [error["type"] for error in response.json()["errors"]] == ["extra_forbidden"]
    assert await stored_state(client, ids) == before
