"""What belongs to an account goes with it: all rows that reference it with ON DELETE CASCADE."""

import httpx2
import pytest
from sqlalchemy import ForeignKey, func, select

from app.features.users.models import User
from app.infra.database.base import Base
from app.infra.resources import ProcessResources
from tests.contract.callers import Caller

OWNED = [
    pytest.param(key, id=f"{table}.{key.parent.name}")
    for table in Base.metadata.sorted_tables
    for key in table.foreign_keys
    if key.column.table is User.__table__ and key.ondelete == "CASCADE"
]


@pytest.mark.parametrize("key", OWNED)
async def test_deleted_account_leaves_no_row_of_its_own(
    client: httpx2.AsyncClient,
    resources: ProcessResources,
    user: User,
    owner: Caller,
    key: ForeignKey,
) -> None:
    count = select(func.count()).where(key.parent == user.id)
    async with resources.database.read() as session:
        assert await session.scalar(count), "`make_rows` in the contract.py makes no such row"
        response = await client.delete("/v1/users/me", headers=owner.headers)
        assert response.status_code == 204
        assert await session.scalar(count) == 0
