"""The pool serves requests in order, and refuses them after its timeout."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from fastapi import FastAPI
from prometheus_client import REGISTRY
from sqlalchemy import make_url, text

from app.infra.observability.metrics import POOL_SIZE
from app.settings import Settings
from tests.application import client_of, running
from tests.sample.factory import NoteFactory


def with_pool(settings: Settings, **values: object) -> Settings:
    """Return settings with other values for the pool."""
    return settings.model_copy(update={"database": settings.database.model_copy(update=values)})


@pytest.fixture
async def single(settings: Settings) -> AsyncIterator[FastAPI]:
    """The application with a pool of one connection."""
    async with running(with_pool(settings, pool_size=1)) as app:
        yield app


async def test_waiting_requests_are_served_in_order(single: FastAPI) -> None:
    database = single.state.resources.database
    served = []

    async def take(number: int) -> None:
        async with database.read() as session:
            await session.execute(text("SELECT pg_sleep(0.002)"))
            served.append(number)

    async with asyncio.TaskGroup() as tasks:
        for number in range(30):
            tasks.create_task(take(number))
            await asyncio.sleep(0.001)  # new requests arrive while others wait
    assert served == list(range(30))


async def test_exhausted_pool_answers_503_and_recovers(
    settings: Settings, make: NoteFactory
) -> None:
    user = await make.user()
    short = with_pool(settings, pool_size=1, pool_timeout_seconds=0.05)
    async with running(short) as app, client_of(app) as client:
        async with app.state.resources.database.read() as session:
            await session.execute(text("SELECT 1"))
            response = await client.get(f"/v1/users/{user.id}")
            assert response.status_code == 503
            assert response.headers["retry-after"] == "1"
            assert response.json()["code"] == "unavailable"
        assert (await client.get(f"/v1/users/{user.id}")).status_code == 200


async def test_cancelled_waiter_frees_its_place(single: FastAPI) -> None:
    database = single.state.resources.database

    async def take() -> None:
        async with database.read() as session:
            await session.execute(text("SELECT 1"))

    async with database.read() as session:
        await session.execute(text("SELECT 1"))
        waiters = [asyncio.create_task(take()) for _ in range(10)]
        await asyncio.sleep(0.01)
        for waiter in waiters:
            waiter.cancel()
        await asyncio.gather(*waiters, return_exceptions=True)
    await take()
    assert database.engine.pool.checkedout() == 0


async def test_gauges_show_how_the_pool_is_used(single: FastAPI) -> None:
    database = single.state.resources.database

    def measured() -> list[float | None]:
        database.engine.pool.measure()
        names = ("pool_connections_max", "pool_connections_in_use", "pool_waiting")
        return [REGISTRY.get_sample_value(f"database_{name}") for name in names]

    async def take() -> None:
        async with database.read() as session:
            await session.execute(text("SELECT 1"))

    POOL_SIZE.set(0)
    assert measured() == [1, 0, 0]
    async with database.read() as session:
        await session.execute(text("SELECT 1"))
        waiter = asyncio.create_task(take())
        async with asyncio.timeout(60):
            while not database.engine.pool.waiting:
                await asyncio.sleep(0)
        assert measured() == [1, 1, 1]
    await waiter


@pytest.mark.parametrize("wrong", ["port", "password", "name"])
async def test_failed_connection_is_503_and_frees_its_place(settings: Settings, wrong: str) -> None:
    url = make_url(settings.database.url.get_secret_value())
    refused = {"port": url.set(port=1), "password": url.set(password="x")}
    url = refused.get(wrong, url.set(database="nowhere"))
    away = {"url": url.render_as_string(hide_password=False), "pool_size": 1}
    nowhere = Settings.model_validate({**settings.model_dump(), "database": away})
    async with running(nowhere) as app, client_of(app) as client:
        for _ in range(10):
            response = await client.get("/test/notes")
            assert response.status_code == 503
            assert response.headers["retry-after"] == "1"
            assert "cannot be reached" in response.json()["detail"]
        assert (await client.get("/livez")).status_code == 200
        assert (await client.get("/readyz")).status_code == 503


async def test_connection_that_dies_before_it_is_set_up_is_503_and_frees_its_place(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_up = asyncpg.Connection.set_type_codec

    async def close_and_set_up(connection: asyncpg.Connection, *args: Any, **options: Any) -> None:
        connection.terminate()
        await set_up(connection, *args, **options)

    async with running(with_pool(settings, pool_size=1)) as app, client_of(app) as client:
        with monkeypatch.context() as dying:
            dying.setattr(asyncpg.Connection, "set_type_codec", close_and_set_up)
            for _ in range(3):
                response = await client.get("/test/notes")
                assert response.status_code == 503
                assert response.headers["retry-after"] == "1"
        assert (await client.get("/test/notes")).status_code == 200


async def test_timeouts_are_set_on_every_connection(settings: Settings) -> None:
    timed = with_pool(
        settings,
        statement_timeout_seconds=5.5,
        lock_timeout_seconds=2,
        idle_in_transaction_timeout_seconds=9,
    )
    async with running(timed) as app, app.state.resources.database.read() as session:
        for name, value in {
            "statement_timeout": "5500ms",
            "lock_timeout": "2s",
            "idle_in_transaction_session_timeout": "9s",
            "application_name": "app",
        }.items():
            assert await session.scalar(text(f"SHOW {name}")) == value


async def test_slow_statement_is_503(settings: Settings) -> None:
    impatient = with_pool(settings, statement_timeout_seconds=0.05)
    async with running(impatient) as app, client_of(app) as client:

        @app.get("/slow")
        async def slow() -> None:
            async with app.state.resources.database.read() as session:
                await session.execute(text("SELECT pg_sleep(10)"))

        response = await client.get("/slow")
        assert response.status_code == 503
        assert response.headers["retry-after"] == "1"
