"""Reads that may lag go to the replica while its lag is small, and to the primary otherwise."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from app.infra.database import export
from app.infra.database import replica as replica_module
from app.infra.database.export import ExportFormat, ExportReader
from app.infra.database.replica import Replica
from app.infra.dependencies import LaggingSession
from app.infra.observability.background import failing, in_background
from app.infra.observability.metrics import REPLICA_LAG
from app.infra.web.cacheable import cacheable
from app.settings import Settings
from coherent_cache import shows
from tests.application import client_of, running
from tests.exports import lines_of
from tests.sample.factory import NoteFactory
from tests.sample.notes import EXPORTED_NOTES
from tests.standby import Standby, open_standby, until

WHERE = text("SELECT pg_is_in_recovery()")
# Connections of clients, without the one that runs this statement.
CONNECTIONS = (
    "SELECT count(*) FROM pg_stat_activity"
    " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
)


@pytest.fixture
def standby(settings: Settings, tmp_path: Path) -> Iterator[Standby]:
    """A replica of the tests' own server. Copying the server takes about a second."""
    url = settings.database.url.get_secret_value().replace("postgresql+asyncpg", "postgresql")
    with open_standby(url, tmp_path) as standby:
        yield standby


@pytest.fixture
async def app(
    settings: Settings, standby: Standby, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[FastAPI]:
    """An application with a route that may lag."""
    monkeypatch.setattr(replica_module, "CHECK_SECONDS", 0.1)
    async with running(with_replica(settings, standby)) as app:

        @app.get("/where")
        async def where(session: LaggingSession) -> bool:
            return bool((await session.execute(WHERE)).scalar_one())

        @app.get("/fails-there")
        async def fails_there(session: LaggingSession) -> bool:
            await session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
            return True

        await until(lambda: replica_of(app).is_up_to_date)
        yield app


def with_replica(settings: Settings, standby: Standby) -> Settings:
    url = settings.database.url.get_secret_value()
    database = {"url": url, "replica_url": standby.url(url), "replica_lag_seconds": 2}
    return Settings.model_validate({**settings.model_dump(), "database": database})


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx2.AsyncClient]:
    async with client_of(app) as client:
        yield client


def replica_of(app: FastAPI) -> Replica:
    replica: Replica | None = app.state.resources.replica
    assert replica is not None
    return replica


async def is_answered_by_replica(client: httpx2.AsyncClient) -> bool:
    response = await client.get("/where")
    assert response.status_code == 200, response.text
    return bool(response.json())


async def comes_to_be_answered_by_replica(client: httpx2.AsyncClient) -> None:
    """Wait, because on a busy machine the replica sometimes lags and is not used."""
    async with asyncio.timeout(60):
        while not await is_answered_by_replica(client):
            await asyncio.sleep(0.02)


async def test_only_reads_that_may_lag_use_the_replica(
    app: FastAPI, client: httpx2.AsyncClient
) -> None:
    await comes_to_be_answered_by_replica(client)
    async with app.state.resources.database.read() as session:
        assert not (await session.execute(WHERE)).scalar_one()


async def test_replica_that_lags_is_not_used_until_it_has_caught_up(
    app: FastAPI, client: httpx2.AsyncClient, standby: Standby
) -> None:
    await standby.ask("SELECT pg_wal_replay_pause()")
    async with app.state.resources.database.transaction() as session:
        await session.execute(text("SELECT pg_logical_emit_message(true, 'test', 'lags')"))
    await until(lambda: not replica_of(app).is_up_to_date)
    await until(lambda: replica_of(app).lag_seconds > 2)
    assert not await is_answered_by_replica(client)
    await standby.ask("SELECT pg_wal_replay_resume()")
    await until(lambda: replica_of(app).is_up_to_date)
    await comes_to_be_answered_by_replica(client)


async def test_replica_is_checked_while_the_pool_of_the_primary_is_full(
    app: FastAPI, client: httpx2.AsyncClient
) -> None:
    await comes_to_be_answered_by_replica(client)
    primary = app.state.resources.database
    async with AsyncExitStack() as stack:
        for _ in range(primary.engine.pool.size()):
            session = await stack.enter_async_context(primary.read())
            await session.execute(text("SELECT 1"))
        full_since = time.monotonic()
        await until(lambda: replica_of(app)._answered_at > full_since + 1)


async def test_failure_of_the_replica_is_no_error_for_clients(
    app: FastAPI, client: httpx2.AsyncClient, standby: Standby
) -> None:
    await comes_to_be_answered_by_replica(client)
    standby.kill()  # the next request uses a connection that is dead
    for _ in range(20):
        assert not await is_answered_by_replica(client)
    assert not replica_of(app).is_up_to_date


async def test_read_that_fails_on_the_replica_is_repeated_on_the_primary(
    app: FastAPI, client: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    await comes_to_be_answered_by_replica(client)
    # The statement kills its own connection, on the primary too. There is no third attempt.
    response = await client.get("/fails-there")
    assert response.status_code == 503
    assert response.headers["retry-after"] == "1"
    await until(lambda: replica_of(app).is_up_to_date)
    await comes_to_be_answered_by_replica(client)


async def test_an_export_is_read_from_the_replica_and_goes_on_when_the_replica_is_lost(
    app: FastAPI, client: httpx2.AsyncClient, standby: Standby, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "FIRST_ROWS", 2)
    resources, replica = app.state.resources, replica_of(app)
    make = NoteFactory(resources)
    notes = [note.id for note in await make.notes(5)]
    await until_replayed(replica, len(notes))
    await comes_to_be_answered_by_replica(client)
    used = [count_checkouts(one.engine) for one in (replica.database, resources.database)]
    reader = ExportReader(
        EXPORTED_NOTES, ExportFormat.JSON_LINES, None, {}, resources.database, replica
    )
    async with asyncio.timeout(60):
        while not replica.is_up_to_date:
            await asyncio.sleep(0.01)
    lines = await reader.read()
    assert lines is not None
    assert (len(used[0]), [line["id"] for line in lines_of(lines)]) == (1, notes[:2])
    standby.kill()  # the next batch uses a connection that is dead
    while (batch := await reader.read()) is not None:
        lines += batch
    assert [line["id"] for line in lines_of(lines)] == notes
    assert used[1]
    assert not replica.is_up_to_date


async def until_replayed(replica: Replica, number: int) -> None:
    """Wait until the replica has so many notes."""
    async with asyncio.timeout(60), replica.database.read() as session:
        while await session.scalar(text("SELECT count(*) FROM test_notes")) != number:
            await asyncio.sleep(0.02)


def count_checkouts(engine: AsyncEngine) -> list[object]:
    """Return a list that grows with each connection that is taken from the pool."""
    found: list[object] = []
    event.listen(engine.sync_engine, "checkout", lambda *_: found.append(None))
    return found


async def test_promoted_replica_is_not_used(
    app: FastAPI, client: httpx2.AsyncClient, standby: Standby, caplog: pytest.LogCaptureFixture
) -> None:
    assert await standby.ask("SELECT pg_promote()")
    await until(lambda: not replica_of(app).is_up_to_date)
    await asyncio.sleep(3 * replica_module.CHECK_SECONDS)
    assert not replica_of(app).is_up_to_date
    assert not await is_answered_by_replica(client)
    assert "not used, because it is a primary" in caplog.text


async def test_cached_answer_is_loaded_from_the_primary(
    app: FastAPI, client: httpx2.AsyncClient
) -> None:
    @app.get("/kept")
    @cacheable()
    async def kept(session: LaggingSession) -> bool:
        shows(session, "thing")
        return bool((await session.execute(WHERE)).scalar_one())

    assert (await client.get("/kept")).json() is False


async def test_without_a_replica_the_primary_is_used(settings: Settings) -> None:
    async with running(settings) as app:

        @app.get("/where")
        async def where(session: LaggingSession) -> bool:
            return bool((await session.execute(WHERE)).scalar_one())

        assert app.state.resources.replica is None
        async with client_of(app) as client:
            assert (await client.get("/where")).json() is False


async def test_check_does_not_trust_a_replica_whose_connection_was_lost_meanwhile(
    app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = checked_by_hand(app)
    await until_in_use(replica)
    read = replica.database.read

    @asynccontextmanager
    async def read_and_lose() -> AsyncIterator[AsyncSession]:
        async with read() as session:
            yield session
            replica.distrust()

    monkeypatch.setattr(replica.database, "read", read_and_lose)
    assert await replica._check() == "unreachable"
    assert not replica.is_up_to_date


async def test_replica_is_used_although_the_log_continues_at_a_lower_position(
    app: FastAPI,
) -> None:
    """After a failover of the primary, the log continues at a lower position."""
    replica = checked_by_hand(app)
    replica._record(time.monotonic(), 2**62)
    await until_in_use(replica)


def checked_by_hand(app: FastAPI) -> Replica:
    """Return a replica that only the test checks."""
    database = replica_of(app).database
    return Replica(database, database, app.state.resources.database, 2)


async def until_in_use(replica: Replica) -> None:
    async with asyncio.timeout(60):
        while await replica._check() != "in use":
            await asyncio.sleep(0.2)  # 60 s are too short for MAX_POSITIONS checks


async def test_unexpected_failure_of_the_checks_is_reported() -> None:
    nothing: Any = None
    replica = Replica(nothing, nothing, nothing, 2)
    async with in_background(replica.run, "replica"):
        await until(lambda: "replica" in failing())


async def test_connections_to_the_replica_end_with_the_process(
    settings: Settings, standby: Standby
) -> None:
    async with running(with_replica(settings, standby)) as app:
        await until(lambda: replica_of(app).is_up_to_date)
        async with replica_of(app).database.read() as session:
            await session.execute(WHERE)
        assert await standby.ask(CONNECTIONS)
    async with asyncio.timeout(60):  # the server needs a moment
        while await standby.ask(CONNECTIONS):
            await asyncio.sleep(0.02)


def test_lag_that_is_unknown_is_infinite_in_the_metrics() -> None:
    nothing: Any = None
    REPLICA_LAG.set(0)
    Replica(nothing, nothing, nothing, 2).measure()
    assert REPLICA_LAG._value.get() == float("inf")
