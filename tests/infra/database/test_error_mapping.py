"""Which database errors are the client's fault, and which are the operator's."""

from collections.abc import AsyncIterator, Awaitable, Callable

import httpx2
import pytest
from fastapi import FastAPI
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from app.features.users.models import User
from app.infra.dependencies import WriteSession
from app.infra.resources import ProcessResources
from app.settings import Settings
from tests.application import client_of, running
from tests.features.users.factory import PASSWORD
from tests.sample.factory import NoteFactory

Client = httpx2.AsyncClient
Write = Callable[[], Awaitable[httpx2.Response]]

TABLES = ["users", "test_notes", "refresh_tokens"]
AT_ITS_BEGINNING, AT_ITS_END = "1, false", f"{2**63 - 1}, true"


@pytest.fixture
async def own_app(settings: Settings) -> AsyncIterator[FastAPI]:
    """An application that a test may add routes to."""
    async with running(settings) as app:
        yield app


@pytest.fixture
async def writes(client: Client, make: NoteFactory) -> dict[str, Write]:
    """For each table, a request that inserts a row. The tables have rows already."""
    user = await make.user()
    await make.note(user)
    headers = make.headers(user)
    account = {"email": "new@example.com", "name": "New", "password": PASSWORD}
    form = {"username": user.email, "password": PASSWORD}
    assert (await client.post("/v1/auth/token", data=form)).status_code == 200
    return {
        "users": lambda: client.post("/v1/users", json=account),
        "test_notes": lambda: client.post(
            "/test/notes", json={"title": "T", "body": "B"}, headers=headers
        ),
        "refresh_tokens": lambda: client.post("/v1/auth/token", data=form),
    }


async def set_sequence(resources: ProcessResources, table: str, value: str) -> None:
    """Set the next id of a table."""
    statement = f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), {value})"
    async with resources.database.transaction() as session:
        await session.execute(text(statement))


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize(
    ("value", "named"),
    [(AT_ITS_BEGINNING, "constraint pk_{table}"), (AT_ITS_END, "{table}_id_seq")],
)
async def test_sequence_that_does_not_fit_its_table_is_500(
    resources: ProcessResources,
    writes: dict[str, Write],
    caplog: pytest.LogCaptureFixture,
    table: str,
    value: str,
    named: str,
) -> None:
    await set_sequence(resources, table, value)
    response = await writes[table]()
    assert response.status_code == 500
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["code"] == "internal_error"
    assert named.format(table=table) in caplog.text


@pytest.mark.parametrize(
    ("statement", "status"),
    [
        ("SELECT 'x'::varchar(10)::int", 422),
        ("SELECT '2026-13-01'::date", 422),
        ("SELECT 2147483648::int8::int4", 422),
        ("SELECT 1 / 0", 500),
        ("SELECT ln(0)", 500),
        ("SELECT * FROM missing", 500),
    ],
)
async def test_only_invalid_values_are_the_clients_fault(
    own_app: FastAPI, statement: str, status: int
) -> None:
    @own_app.get("/fails")
    async def fails(session: WriteSession) -> None:
        await session.execute(text(statement))

    async with client_of(own_app) as client:
        assert (await client.get("/fails")).status_code == status


async def test_violation_of_a_unique_constraint_is_a_conflict(
    own_app: FastAPI, make: NoteFactory
) -> None:
    user = await make.user()

    @own_app.post("/register-again")
    async def register_again(session: WriteSession) -> None:
        session.add(User(email=user.email, name="N", password_hash=""))
        await session.flush()

    async with client_of(own_app) as client:
        assert (await client.post("/register-again")).status_code == 409


async def test_violation_of_another_constraint_is_not_reported_as_email_taken(
    client: Client, make: NoteFactory
) -> None:
    user = await make.user()
    async with make.resources.database.transaction() as session:
        await session.execute(
            text("ALTER TABLE users ADD CONSTRAINT ck_users_x CHECK (name <> 'X')")
        )
    try:
        changes = {"email": "x@example.com", "name": "X", "current_password": PASSWORD}
        response = await client.patch("/v1/users/me", json=changes, headers=make.headers(user))
    finally:
        async with make.resources.database.transaction() as session:
            await session.execute(text("ALTER TABLE users DROP CONSTRAINT ck_users_x"))
    assert response.status_code == 500


async def test_exhausted_pool_of_another_engine_is_503(
    own_app: FastAPI, settings: Settings
) -> None:
    """An engine that a feature opens for itself has the pool of SQLAlchemy."""
    url = settings.database.url.get_secret_value()
    engine = create_async_engine(url, pool_size=1, max_overflow=0, pool_timeout=0.01)

    @own_app.get("/busy")
    async def busy() -> None:
        async with engine.connect(), engine.connect():
            pass

    async with client_of(own_app) as client:
        response = await client.get("/busy")
    await engine.dispose()
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    assert response.json()["detail"] == "All database connections are busy."


async def test_repeated_database_failures_are_not_logged_for_every_request(
    own_app: FastAPI, caplog: pytest.LogCaptureFixture
) -> None:
    @own_app.get("/fails")
    async def fails(session: WriteSession) -> None:
        await session.execute(text("DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '53100'; END $$"))

    async with client_of(own_app) as client:
        statuses = {(await client.get("/fails")).status_code for _ in range(20)}
    assert statuses == {503}
    # The filter lets one line through in five seconds. A busy machine may take longer for the loop.
    assert len([line for line in caplog.messages if "failed a request" in line]) < 10
