"""A value that the driver cannot send leaves no statement behind, and no lock."""

import asyncio
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from app.infra.database.driver import fetch
from app.infra.database.transactions import fetch_in
from app.infra.resources import ProcessResources

TOO_LARGE = 2**70
BEGUN = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'SELECT 7, %'"


async def fetched(resources: ProcessResources) -> Any:
    await fetch(resources.database.engine, "SELECT 7, id FROM users WHERE id = $1", TOO_LARGE)


async def fetched_without_its_value(resources: ProcessResources) -> Any:
    await fetch(resources.database.engine, "SELECT 7, id FROM users WHERE id = $1")


async def read(resources: ProcessResources) -> Any:
    async with resources.database.read() as session:
        query = text("SELECT 7, id FROM users WHERE id = :id")
        await session.execute(query, {"id": TOO_LARGE})


async def sent_in_a_transaction(resources: ProcessResources) -> Any:
    async with resources.database.transaction() as session:
        await fetch_in(session, "SELECT 7, id FROM users WHERE id = $1", TOO_LARGE)


@pytest.mark.parametrize("send", [fetched, fetched_without_its_value, read, sent_in_a_transaction])
async def test_the_statement_ends(resources: ProcessResources, send: Any) -> None:
    async with asyncio.timeout(4), resources.database.transaction() as observer:
        await fetch_in(observer, "SELECT 1")  # on a connection of its own
        with pytest.raises(DBAPIError) as failure:
            await send(resources)
        assert not failure.value.connection_invalidated  # a mistake of ours, and not an outage
        while (await fetch_in(observer, BEGUN))[0][0]:  # until PostgreSQL has noticed
            await fetch_in(observer, "SELECT pg_stat_clear_snapshot()")
            await asyncio.sleep(0.01)
