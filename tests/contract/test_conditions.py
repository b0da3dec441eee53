"""Every route that changes or deletes something heeds If-Match and If-None-Match."""

import httpx2
import pytest

from tests.contract.callers import Caller
from tests.contract.calls import call, stored_state
from tests.contract.declaration import Ids
from tests.contract.document import BY_ROUTE

Client = httpx2.AsyncClient

CHANGING = [
    route for route, operation in BY_ROUTE.items() if operation.method in ("PATCH", "PUT", "DELETE")
]
UNMET = [("If-None-Match", "*"), ("If-Match", '"other"'), ("If-Match", 'W/"other"')]
MET = [("If-None-Match", '"other"'), ("If-Match", "*")]


@pytest.mark.slow
@pytest.mark.parametrize("condition", UNMET, ids=str)
@pytest.mark.parametrize("route", CHANGING)
async def test_a_condition_that_is_not_met_changes_nothing(
    client: Client, ids: Ids, owner: Caller, route: str, condition: tuple[str, str]
) -> None:
    before = await stored_state(client, ids)
    response = await call(client, route, ids, owner, **dict([condition]))
    assert (response.status_code, response.json()["code"]) == (412, "stale")
    assert "412" in BY_ROUTE[route].answers
    assert await stored_state(client, ids) == before


@pytest.mark.parametrize("condition", MET, ids=str)
@pytest.mark.parametrize("route", CHANGING)
async def test_a_condition_that_is_met_is_no_obstacle(
    client: Client, ids: Ids, owner: Caller, route: str, condition: tuple[str, str]
) -> None:
    response = await call(client, route, ids, owner, **dict([condition]))
    assert response.is_success, response.text


@pytest.mark.parametrize("route", CHANGING)
async def test_a_missing_token_is_told_before_a_condition_is_checked(
    client: Client, ids: Ids, route: str
) -> None:
    response = await call(client, route, ids, Caller(), **{"If-None-Match": "*"})
    assert response.status_code == 401
