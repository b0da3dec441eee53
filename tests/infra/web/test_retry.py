"""A request that the database failed without a trace is run once more."""

from collections.abc import AsyncIterator

import httpx2
import pytest
from fastapi import FastAPI
from sqlalchemy import text

from app.features.users.models import User
from app.infra.dependencies import ReadSession, WriteSession
from app.infra.resources import Resources
from app.settings import Settings
from tests.application import client_of, running

END_OURSELVES = text("SELECT pg_terminate_backend(pg_backend_pid())")
CONFLICT = text("DO $$ BEGIN RAISE serialization_failure; END $$")


@pytest.fixture
async def runs() -> list[str]:
    """What the endpoints did, in order."""
    return []


@pytest.fixture
async def client(
    settings: Settings, runs: list[str], clean: None
) -> AsyncIterator[httpx2.AsyncClient]:
    """The application with endpoints whose database fails the first time, or each time."""
    async with running(settings) as app:
        add_endpoints(app, runs)
        async with client_of(app) as client:
            yield client


def add_endpoints(app: FastAPI, runs: list[str]) -> None:
    @app.get("/read")
    async def read(session: ReadSession) -> str:
        runs.append("read")
        if len(runs) == 1:
            await session.execute(END_OURSELVES)
        return "done"

    @app.post("/write")
    async def write(row: dict[str, str], session: WriteSession) -> str:
        runs.append(row["name"])
        session.add(User(**row))
        await session.flush()
        if len(runs) == 1:
            await session.execute(CONFLICT)
        return "done"

    @app.get("/always")
    async def always(session: ReadSession) -> None:
        runs.append("always")
        await session.execute(END_OURSELVES)


async def test_a_read_whose_connection_dies_is_run_again(
    client: httpx2.AsyncClient, runs: list[str]
) -> None:
    response = await client.get("/read")
    assert (response.status_code, response.json()) == (200, "done")
    assert runs == ["read", "read"]


async def test_a_write_that_lost_a_conflict_is_run_again_with_its_body(
    client: httpx2.AsyncClient, runs: list[str], resources: Resources
) -> None:
    row = {"name": "Ann", "email": "ann@example.com", "password_hash": "x"}
    response = await client.post("/write", json=row)
    assert (response.status_code, response.json()) == (200, "done")
    assert runs == ["Ann", "Ann"]
    async with resources.database.read() as session:
        assert await session.scalar(text("SELECT count(*) FROM users")) == 1


async def test_the_second_failure_is_answered(client: httpx2.AsyncClient, runs: list[str]) -> None:
    response = await client.get("/always")
    assert response.status_code == 503
    assert response.headers["retry-after"] == "1"
    assert runs == ["always", "always"]
