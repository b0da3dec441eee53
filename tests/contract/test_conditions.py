"""Every route that changes or deletes something that exists heeds If-Match and If-None-Match."""

import httpx2
import pytest

from app.features.users.models import User
from tests.contract.document import OPERATIONS, Operation
from tests.contract.test_access import Caller, somebody, state
from tests.factories import Factory

Client = httpx2.AsyncClient

CHANGING = [operation for operation in OPERATIONS if operation.method in ("PATCH", "PUT", "DELETE")]
UNMET = [("If-None-Match", "*"), ("If-Match", '"other"'), ("If-Match", 'W/"other"')]
MET = [("If-None-Match", '"other"'), ("If-Match", "*")]


@pytest.fixture
async def owner(client: Client, make: Factory, ids: dict[str, int]) -> Caller:
    async with make.resources.database.read() as session:
        return await somebody(client, make, await session.get_one(User, ids["user_id"]))


@pytest.mark.parametrize("condition", UNMET, ids=str)
@pytest.mark.parametrize("operation", CHANGING, ids=str)
async def test_a_condition_that_is_not_met_changes_nothing(
    client: Client,
    ids: dict[str, int],
    owner: Caller,
    operation: Operation,
    condition: tuple[str, str],
) -> None:
    before = await state(client, ids)
    headers = {**(owner.headers or {}), condition[0]: condition[1]}
    response = await client.request(
        operation.method, operation.url(ids), headers=headers, **owner.content(operation)
    )
    assert (response.status_code, response.json()["code"]) == (412, "stale")
    assert "412" in operation.answers
    assert await state(client, ids) == before


@pytest.mark.parametrize("condition", MET, ids=str)
@pytest.mark.parametrize("operation", CHANGING, ids=str)
async def test_a_condition_that_is_met_is_no_obstacle(
    client: Client,
    ids: dict[str, int],
    owner: Caller,
    operation: Operation,
    condition: tuple[str, str],
) -> None:
    headers = {**(owner.headers or {}), condition[0]: condition[1]}
    response = await client.request(
        operation.method, operation.url(ids), headers=headers, **owner.content(operation)
    )
    assert response.is_success, response.text


@pytest.mark.parametrize("operation", CHANGING, ids=str)
async def test_who_may_not_change_it_is_told_so_first(
    client: Client, ids: dict[str, int], operation: Operation
) -> None:
    response = await client.request(
        operation.method,
        operation.url(ids),
        headers={"If-None-Match": "*"},
        **Caller().content(operation),
    )
    assert response.status_code == 401
