"""While migrations are missing, every route that needs the database answers 503, and recovers."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import httpx2
import pytest
from alembic.command import upgrade
from fastapi import FastAPI
from sqlalchemy import event, text

from app.infra.dependencies import LaggingSession, ReadSession, WriteSession
from app.settings import Settings
from tests.application import RUN_RELAY, build, client_of, running
from tests.cached_app import NO_STORE
from tests.contract.callers import Caller
from tests.contract.calls import call
from tests.contract.declaration import Ids
from tests.contract.document import ROUTES
from tests.contract.features import ENDLESS, ROWS
from tests.features.users.factory import UserFactory
from tests.migrations import run_alembic

PROJECT = Path(__file__).parents[2]
# Calls that end the account come last, because the others need it.
WALKED = sorted(ROUTES.keys() - ENDLESS, key=lambda route: (ROWS[route].ends_account, route))
READINESS = "GET /readyz"
# The revisions before the newest. None is a database in which nothing was ever migrated.
FILES = sorted((PROJECT / "migrations" / "versions").glob("*.py"))
OLDER = [None, *(file.name.partition("_")[0] for file in FILES[:-1])]


@asynccontextmanager
async def own_database(settings: Settings, name: str) -> AsyncIterator[Settings]:
    """Make a database without a table. Yield the settings of a service that uses it."""
    server = os.environ["TEST_DATABASE_URL"]
    connection = await asyncpg.connect(server)
    await connection.execute(f"DROP DATABASE IF EXISTS {name} (FORCE)")
    await connection.execute(f"CREATE DATABASE {name}")
    url = urlunsplit(urlsplit(server)._replace(path=f"/{name}"))
    try:
        yield with_database(settings, url)
    finally:
        await connection.execute(f"DROP DATABASE {name} (FORCE)")
        await connection.close()


def with_database(settings: Settings, url: str) -> Settings:
    values = settings.model_dump()
    values["database"]["url"] = url
    values["cache"]["namespace"] += "-unmigrated"
    return Settings.model_validate(values)


async def migrate(settings: Settings, revision: str) -> None:
    await run_alembic(upgrade, settings.database.url.get_secret_value(), revision)


@pytest.fixture
async def empty(settings: Settings, worker_id: str) -> AsyncIterator[Settings]:
    async with own_database(settings, f"unmigrated_{worker_id}") as own:
        yield own


async def routes_with_a_connection(
    app: FastAPI, client: httpx2.AsyncClient, ids: Ids, caller: Caller
) -> set[str]:
    """Return the routes that use a connection to a database with a current schema.

    Statements are not what is counted, because SQLAlchemy has no event for COPY.
    """
    found, current = set(), ""

    def record(*_: object) -> None:
        found.add(current)

    engine = app.state.resources.database.engine.sync_engine
    event.listen(engine, "checkout", record)
    try:
        for current in WALKED:
            await call(client, current, ids, caller, **NO_STORE)
    finally:
        event.remove(engine, "checkout", record)
    return found


def is_problem(response: httpx2.Response, code: str) -> bool:
    return (
        response.status_code == 503
        and response.headers["content-type"] == "application/problem+json"
        and response.headers["retry-after"].isdecimal()
        and response.json()["code"] == code
    )


async def test_every_route_that_needs_an_empty_database_answers_503(
    app: FastAPI, client: httpx2.AsyncClient, ids: Ids, owner: Caller, empty: Settings
) -> None:
    async with running(empty) as unmigrated, client_of(unmigrated) as other:
        answers = {
            (route, stored): await call(other, route, ids, owner, **headers)
            for route in WALKED
            for stored, headers in (("cached", {}), ("not cached", NO_STORE))
        }
    need_database = await routes_with_a_connection(app, client, ids, owner)
    assert len(need_database) > len(WALKED) / 2
    for (route, stored), response in answers.items():
        code = "unavailable" if route == READINESS else "schema_behind"
        expected = is_problem(response, code) if route in need_database else response.is_success
        assert expected, (route, stored, response.status_code, response.text)


@pytest.mark.parametrize("revision", OLDER)
async def test_no_route_fails_on_an_older_schema(
    ids: Ids, owner: Caller, empty: Settings, revision: str | None
) -> None:
    if revision is not None:
        await migrate(empty, revision)
    async with running(empty) as unmigrated, client_of(unmigrated) as other:
        for route in WALKED:
            for headers in ({}, NO_STORE):
                response = await call(other, route, ids, owner, **headers)
                allowed = response.status_code < 500 or is_problem(response, "schema_behind")
                assert allowed or route == READINESS, (route, response.text)
        assert is_problem(await other.get("/readyz"), "unavailable")


@pytest.fixture
def own_routes(empty: Settings) -> FastAPI:
    """An application with a route of every kind that fails on an empty database."""
    app = build(empty)

    @app.get("/reads")
    async def reads(session: ReadSession) -> None:
        await session.execute(text("SELECT 1 FROM users"))

    @app.get("/lags")
    async def lags(session: LaggingSession) -> None:
        await session.execute(text("SELECT no_such_column FROM users"))

    @app.post("/writes")
    async def writes(session: WriteSession) -> None:
        await session.execute(text("SELECT no_such_function()"))

    @app.post("/schema")
    async def schema(session: WriteSession) -> None:
        await session.execute(text("CREATE TABLE no_such_schema.things ()"))

    return app


async def test_every_kind_of_undefined_object_counts(own_routes: FastAPI) -> None:
    async with own_routes.router.lifespan_context(own_routes), client_of(own_routes) as client:
        for method, path in (
            ("GET", "reads"),
            ("GET", "lags"),
            ("POST", "writes"),
            ("POST", "schema"),
        ):
            response = await client.request(method, f"/{path}")
            assert is_problem(response, "schema_behind"), (path, response.text)


async def test_service_recovers_when_the_database_is_migrated(
    empty: Settings,
    make: UserFactory,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Requests run before, during and after the migration. None of them is a 500."""
    monkeypatch.setattr("coherent_cache.relay.Relay.run", RUN_RELAY)
    caplog.set_level(logging.WARNING)
    account = {"name": "Ada", "password": "correct horse battery"}
    answers: list[httpx2.Response] = []

    async def send_requests(client: httpx2.AsyncClient) -> None:
        for number in range(100_000):
            email = f"ada{number}@example.com"
            answers.append(await client.post("/v1/users", json={**account, "email": email}))
            answers.append(await client.get("/v1/users/1"))

    async with running(empty) as app, client_of(app) as client:
        sending = [asyncio.create_task(send_requests(client))]
        await asyncio.sleep(1)
        assert {answer.status_code for answer in answers} == {503}
        lines_before = len(caplog.records)
        sent_before = len(answers)
        await migrate(empty, "head")
        async with asyncio.timeout(30):
            while answers[-1].status_code == 503 or (await client.get("/readyz")).is_error:
                await asyncio.sleep(0.05)
        for task in sending:
            task.cancel()
        await asyncio.wait(sending)
        created = await client.post("/v1/users", json={**account, "email": "last@example.com"})
    assert created.status_code == 201
    statuses = {answer.status_code for answer in answers}
    assert statuses <= {200, 201, 404, 503}, statuses
    # A line of each kind passes once in five seconds: the log does not grow with the requests.
    assert sent_before > 3 * lines_before, caplog.text
    assert "python -m alembic upgrade head" in caplog.text


async def test_failure_that_crosses_a_migration_is_503(
    empty: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The migration may be committed after a statement failed, and before the service looks."""
    app = build(empty)

    @app.get("/wrong")
    async def wrong(session: ReadSession) -> None:
        await session.execute(text("SELECT no_such_column FROM users"))

    monkeypatch.setattr("app.infra.database.schema.JUST_MIGRATED_SECONDS", 3_600)
    async with app.router.lifespan_context(app), client_of(app) as client:
        assert is_problem(await client.get("/wrong"), "schema_behind")
        await migrate(empty, "head")
        assert is_problem(await client.get("/wrong"), "schema_behind")
        monkeypatch.setattr("app.infra.database.schema.JUST_MIGRATED_SECONDS", 0)
        assert (await client.get("/wrong")).status_code == 500


@pytest.mark.parametrize(
    ("statement", "named"),
    [
        ("SELECT titel FROM posts", 'column "titel" does not exist'),
        ("SELECT 1 FROM pots", 'relation "pots" does not exist'),
        ("SELECT nwo()", "function nwo() does not exist"),
    ],
)
async def test_a_programming_error_on_a_current_schema_stays_500(
    settings: Settings,
    clean: None,
    caplog: pytest.LogCaptureFixture,
    statement: str,
    named: str,
) -> None:
    app = build(settings)

    @app.get("/wrong")
    async def wrong(session: ReadSession) -> None:
        await session.execute(text(statement))

    async with app.router.lifespan_context(app), client_of(app) as client:
        response = await client.get("/wrong")
    assert response.status_code == 500
    assert response.json()["code"] == "internal_error"
    assert named in caplog.text


@pytest.fixture
async def bare_role(settings: Settings, worker_id: str) -> AsyncIterator[Settings]:
    """The settings with a role that may log in, and has no privilege on any table."""
    name, url = f"bare_{worker_id}", urlsplit(settings.database.url.get_secret_value())
    connection = await asyncpg.connect(urlunsplit(url._replace(scheme="postgresql")))
    await connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'secret'")
    bare = url._replace(netloc=f"{name}:secret@{url.hostname}:{url.port}")
    try:
        yield with_database(settings, urlunsplit(bare))
    finally:
        await connection.execute(f"DROP OWNED BY {name}")
        await connection.execute(f"DROP ROLE {name}")
        await connection.close()


async def test_a_role_without_privileges_gets_503_and_the_log_names_the_cure(
    bare_role: Settings, ids: Ids, owner: Caller, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(bare_role) as app, client_of(app) as client:
        for route in WALKED:
            response = await call(client, route, ids, owner, **NO_STORE)
            refused = is_problem(response, "missing_privilege")
            assert refused or response.is_success or route == READINESS, (route, response.text)
        unready = await client.get("/readyz")
    assert "database no privileges" in unready.json()["detail"]
    assert "running deploy/postgres/roles.sql again" in caplog.text
    assert "permission denied for table" in caplog.text
