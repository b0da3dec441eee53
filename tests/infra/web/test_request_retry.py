"""A request is run once more if the database failed and the first run changed nothing."""

from collections.abc import AsyncIterator

import httpx2
import pytest
from fastapi import FastAPI
from sqlalchemy import text

from app.features.users.models import User
from app.infra.dependencies import ReadSession, WriteSession
from app.infra.resources import ProcessResources
from app.settings import Settings
from tests.application import client_of, running
from tests.sample.factory import NoteFactory

END_OURSELVES = text("SELECT pg_terminate_backend(pg_backend_pid())")
CONFLICT = text("DO $$ BEGIN RAISE serialization_failure; END $$")

WAIT_FUNCTION = (
    "CREATE FUNCTION pg_temp.wait() RETURNS trigger LANGUAGE plpgsql "
    "AS $$ BEGIN PERFORM pg_sleep(60); RETURN NULL; END $$"
)
WAIT_AT_COMMIT = (
    "CREATE CONSTRAINT TRIGGER wait AFTER INSERT ON slow DEFERRABLE INITIALLY DEFERRED "
    "FOR EACH ROW EXECUTE FUNCTION pg_temp.wait()"
)
SLOW_COMMIT = (
    "CREATE TEMPORARY TABLE slow (id int)",
    WAIT_FUNCTION,
    WAIT_AT_COMMIT,
    "INSERT INTO slow VALUES (1)",
)


@pytest.fixture
async def runs() -> list[str]:
    """The runs of the endpoints, in order."""
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
    client: httpx2.AsyncClient, runs: list[str], resources: ProcessResources
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


async def test_request_with_unknown_outcome_is_not_retried(
    settings: Settings, resources: ProcessResources, runs: list[str], clean: None
) -> None:
    async with running(settings) as app, client_of(app) as client:

        @app.post("/dies-before-commit")
        async def dies(session: WriteSession) -> None:
            runs.append("write")
            pid = await session.scalar(text("SELECT pg_backend_pid()"))
            async with resources.database.read() as other:
                await other.execute(text(f"SELECT pg_terminate_backend({pid}, 5000)"))

        response = await client.post("/dies-before-commit")
    assert response.status_code == 503
    assert "not known" in response.json()["detail"]
    assert runs == ["write"]


async def test_commit_that_times_out_has_an_unknown_outcome(settings: Settings) -> None:
    hasty = {"command_timeout_seconds": 1, "statement_timeout_seconds": 60}
    database = settings.database.model_copy(update=hasty)
    async with running(settings.model_copy(update={"database": database})) as app:

        @app.post("/slow-commit")
        async def slow(session: WriteSession) -> None:
            for statement in SLOW_COMMIT:
                await session.execute(text(statement))

        async with client_of(app) as client:
            response = await client.post("/slow-commit")
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    assert "It is not known whether the change was stored" in response.json()["detail"]


async def test_what_has_committed_is_not_run_again(
    settings: Settings, runs: list[str], clean: None
) -> None:
    async with running(settings) as app, client_of(app) as client:

        @app.post("/two-transactions")
        async def two(session: ReadSession) -> None:
            runs.append("run")
            async with app.state.resources.database.transaction() as write:
                await write.execute(text("SELECT 1"))
            await session.execute(END_OURSELVES)

        assert (await client.post("/two-transactions")).status_code == 503
    assert runs == ["run"]


@pytest.mark.parametrize("method", ["GET", "PATCH"])
async def test_a_migration_meanwhile_is_not_noticed(
    settings: Settings, resources: ProcessResources, make: NoteFactory, method: str
) -> None:
    author = await make.user()
    note = await make.note(author)
    async with running(settings) as app, client_of(app) as client:
        for length in (201, 202, 200):
            for title in ("A", "B"):
                response = await client.request(
                    method,
                    f"/test/notes/{note.id}",
                    json={"title": title} if method == "PATCH" else None,
                    headers=make.headers(author),
                )
                assert response.status_code == 200
            async with resources.database.transaction() as session:
                alter = f"ALTER TABLE test_notes ALTER title TYPE varchar({length})"
                await session.execute(text(alter))


async def test_a_server_that_became_read_only_is_unavailable(settings: Settings) -> None:
    async with running(settings) as app, client_of(app) as client:

        @app.post("/standby")
        async def standby(session: WriteSession) -> None:
            await session.execute(text("SET TRANSACTION READ ONLY"))
            await session.execute(text("UPDATE users SET name = name"))

        assert (await client.post("/standby")).status_code == 503


async def test_what_has_committed_is_not_run_again_after_a_call_of_the_application(
    settings: Settings, runs: list[str], clean: None
) -> None:
    async with running(settings) as app, client_of(app) as client:

        @app.post("/calls")
        async def calls(session: ReadSession) -> None:
            runs.append("run")
            async with app.state.resources.database.transaction() as write:
                await write.execute(text("SELECT 1"))
            async with client_of(app) as inner:
                (await inner.get("/livez")).raise_for_status()
            await session.execute(END_OURSELVES)

        assert (await client.post("/calls")).status_code == 503
    assert runs == ["run"]
