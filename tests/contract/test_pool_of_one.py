"""Every route works with a single database connection: no request needs two at once."""

from collections.abc import AsyncIterator

import httpx2
import pytest
from fastapi import FastAPI

from app.settings import Settings
from tests.application import client_of, running
from tests.contract.callers import Caller
from tests.contract.calls import call
from tests.contract.declaration import Ids
from tests.contract.document import ROUTES
from tests.contract.features import ENDLESS


@pytest.fixture(scope="module")
async def single(settings: Settings) -> AsyncIterator[FastAPI]:
    database = settings.database.model_copy(update={"pool_size": 1})
    async with running(settings.model_copy(update={"database": database})) as app:
        yield app


@pytest.fixture
async def client(single: FastAPI, clean: None) -> AsyncIterator[httpx2.AsyncClient]:
    async with client_of(single) as client:
        yield client


@pytest.mark.parametrize("route", sorted(ROUTES.keys() - ENDLESS))
async def test_every_route_works_with_a_pool_of_one(
    single: FastAPI, client: httpx2.AsyncClient, ids: Ids, owner: Caller, route: str
) -> None:
    response = await call(client, route, ids, owner)
    assert response.is_success, response.text
    assert single.state.resources.database.engine.pool.checkedout() == 0
