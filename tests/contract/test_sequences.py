"""A create that meets a sequence which does not fit its table is an error of the operator."""

import httpx2
import pytest
from sqlalchemy import text

from tests.contract.callers import Caller
from tests.contract.calls import call
from tests.contract.declaration import Ids
from tests.contract.document import BY_ROUTE
from tests.contract.features import ROWS
from tests.features.users.factory import UserFactory
from tests.tables import SERVICE_TABLES

Client = httpx2.AsyncClient

CREATES = [
    route
    for route in BY_ROUTE
    if route in ROWS and route.startswith("POST ") and ROWS[route].owner == 201
]
TABLES = [table for table in SERVICE_TABLES if table != "cache_outbox"]
AT_ITS_BEGINNING, AT_ITS_END = "1, false", f"{2**63 - 1}, true"


@pytest.mark.parametrize("route", CREATES)
@pytest.mark.parametrize(
    ("value", "named"), [(AT_ITS_BEGINNING, "constraint pk_"), (AT_ITS_END, "_id_seq")]
)
async def test_a_sequence_that_does_not_fit_its_table_is_a_500_that_the_log_explains(
    client: Client,
    make: UserFactory,
    ids: Ids,
    owner: Caller,
    caplog: pytest.LogCaptureFixture,
    route: str,
    value: str,
    named: str,
) -> None:
    async with make.resources.database.transaction() as session:
        for table in TABLES:
            sequence = f"pg_get_serial_sequence('{table}', 'id')"
            await session.execute(text(f"SELECT setval({sequence}, {value})"))
    response = await call(client, route, ids, owner)
    assert response.status_code == 500
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["code"] == "internal_error"
    assert named in caplog.text
