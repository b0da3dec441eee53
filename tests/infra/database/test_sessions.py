"""Sessions commit, roll back, run callbacks and return their connections."""

import asyncio
import traceback
from collections.abc import AsyncIterator
from contextlib import suppress

import httpx2
import pytest
from fastapi import FastAPI
from sqlalchemy import Executable, delete, insert, select, text, update
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import DBAPIError, IntegrityError, InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import Conflict
from app.features.users.models import User
from app.infra.database.sessions import after_commit
from app.infra.dependencies import ReadSession, WriteSession
from app.infra.resources import ProcessResources
from app.settings import Settings
from coherent_cache import invalidate
from tests.application import client_of, running
from tests.sample.factory import NoteFactory

ROW = {"email": "ann@example.com", "name": "Ann", "password_hash": "x"}


@pytest.fixture
async def app_of_the_test(settings: Settings) -> AsyncIterator[FastAPI]:
    """An application to which a test adds routes."""
    async with running(settings) as app:
        yield app


@pytest.fixture
async def caller(app_of_the_test: FastAPI, clean: None) -> AsyncIterator[httpx2.AsyncClient]:
    async with client_of(app_of_the_test) as client:
        yield client


async def stored(resources: ProcessResources) -> int:
    """Return how many users there are."""
    async with resources.database.read() as session:
        return len((await session.scalars(select(User))).all())


@pytest.mark.parametrize("error", [RuntimeError("bug"), Conflict("no"), KeyError("bug")])
async def test_exception_after_an_insert_rolls_back(
    app_of_the_test: FastAPI,
    caller: httpx2.AsyncClient,
    resources: ProcessResources,
    error: Exception,
) -> None:
    @app_of_the_test.post("/fail")
    async def fail(session: WriteSession) -> None:
        session.add(User(**ROW))
        await session.flush()
        raise error

    response = await caller.post("/fail")
    assert response.status_code == (409 if isinstance(error, Conflict) else 500)
    assert response.headers["content-type"] == "application/problem+json"
    assert await stored(resources) == 0


async def test_failed_commit_is_never_answered_as_success(
    app_of_the_test: FastAPI, caller: httpx2.AsyncClient, resources: ProcessResources
) -> None:
    ran = []

    @app_of_the_test.post("/fail")
    async def fail(session: WriteSession) -> None:
        await session.execute(
            text(
                "CREATE FUNCTION pg_temp.fail() RETURNS trigger LANGUAGE plpgsql "
                "AS $$ BEGIN RAISE EXCEPTION 'at commit'; END $$"
            )
        )
        await session.execute(
            text(
                "CREATE CONSTRAINT TRIGGER fail AFTER INSERT ON users DEFERRABLE "
                "INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION pg_temp.fail()"
            )
        )

        session.add(User(**ROW))

        async def callback() -> None:
            ran.append("callback")

        after_commit(session, callback)

    response = await caller.post("/fail")
    assert response.status_code == 500
    assert await stored(resources) == 0
    assert ran == []


@pytest.mark.parametrize("statement", [insert(User).values(ROW), text("SELECT 1 / 0")])
async def test_a_failed_statement_whose_error_is_caught_is_never_answered_as_success(
    app_of_the_test: FastAPI,
    caller: httpx2.AsyncClient,
    resources: ProcessResources,
    statement: Executable,
) -> None:
    """PostgreSQL turns the COMMIT into a ROLLBACK, and the driver reports no error."""

    @app_of_the_test.post("/catch")
    async def catch(session: WriteSession) -> None:
        await session.execute(insert(User).values(ROW))
        with suppress(DBAPIError):
            await session.execute(statement)

    assert (await caller.post("/catch")).status_code == 500
    assert await stored(resources) == 0


async def test_a_failed_statement_inside_a_savepoint_may_be_caught(
    resources: ProcessResources, clean: None
) -> None:
    async with resources.database.transaction() as session:
        await session.execute(insert(User).values(ROW))
        with suppress(DBAPIError):
            async with session.begin_nested():
                await session.execute(insert(User).values(ROW))
    assert await stored(resources) == 1


async def test_commit_and_connections_are_done_before_the_response(
    app_of_the_test: FastAPI, caller: httpx2.AsyncClient, resources: ProcessResources
) -> None:
    seen_at_start = []

    @app_of_the_test.post("/write")
    async def write(reads: ReadSession, writes: WriteSession) -> None:
        await reads.execute(text("SELECT 1"))
        writes.add(User(**ROW))

    inner = app_of_the_test.build_middleware_stack()
    pool = app_of_the_test.state.resources.database.engine.pool

    async def watched(scope: object, receive: object, send: object) -> None:
        async def send_and_look(message: dict[str, object]) -> None:
            if message["type"] == "http.response.start":
                seen_at_start.append((await stored(resources), pool.checkedout()))
            await send(message)  # type: ignore[operator]

        await inner(scope, receive, send_and_look)  # type: ignore[arg-type]

    app_of_the_test.middleware_stack = watched
    assert (await caller.post("/write")).status_code == 200
    assert seen_at_start == [(1, 0)]


async def test_callbacks_run_in_order_after_the_commit(
    resources: ProcessResources, clean: None
) -> None:
    ran: list[object] = []

    async def look() -> None:
        ran.append(await stored(resources))

    async def fail() -> None:
        raise RuntimeError("lost, and logged")

    async def last() -> None:
        ran.append("last")

    async with resources.database.transaction() as session:
        session.add(User(**ROW))
        for callback in (look, fail, last):
            after_commit(session, callback)
        assert ran == []
    assert ran == [1, "last"]


async def test_read_session_refuses_to_write(resources: ProcessResources, clean: None) -> None:
    with pytest.raises(TypeError, match="WriteSession"):
        async with resources.database.read() as session:
            session.add(User(**ROW))
            await session.flush()
    assert await stored(resources) == 0


@pytest.mark.parametrize(
    "statement",
    [
        insert(User).values(ROW),
        insert(User.metadata.tables["users"]).values(ROW),
        postgresql.insert(User).values(ROW).on_conflict_do_nothing().returning(User),
        update(User).values(name="Eve"),
        delete(User),
    ],
    ids=["insert", "insert-core", "upsert", "update", "delete"],
)
@pytest.mark.parametrize("method", ["execute", "scalars"])
async def test_read_session_refuses_a_statement_that_writes(
    resources: ProcessResources, clean: None, statement: Executable, method: str
) -> None:
    async with resources.database.transaction() as session:
        session.add(User(**ROW | {"email": "bob@example.com"}))
    with pytest.raises(TypeError, match="WriteSession"):
        async with resources.database.read() as session:
            await getattr(session, method)(statement)
    async with resources.database.read() as session:
        assert (await session.scalars(select(User.name))).all() == ["Ann"]


async def test_read_session_refuses_to_invalidate(resources: ProcessResources) -> None:
    with pytest.raises(TypeError, match="WriteSession"):
        async with resources.database.read() as session:
            invalidate(session, "user:1")


async def test_read_session_refuses_a_change_that_would_be_lost(
    resources: ProcessResources, make: NoteFactory
) -> None:
    user = await make.user()
    with pytest.raises(TypeError, match="WriteSession"):
        async with resources.database.read() as session:
            found = await session.get_one(User, user.id)
            found.name = "Other"
    with pytest.raises(TypeError, match="WriteSession"):
        async with resources.database.read() as session:
            session.add(User(email="a@example.com", name="Ann", password_hash=""))


@pytest.mark.parametrize("kind", ["read", "transaction"])
async def test_closed_session_takes_no_connection_again(
    resources: ProcessResources, kind: str
) -> None:
    async with getattr(resources.database, kind)() as session:
        await session.execute(text("SELECT 1"))
    with pytest.raises(InvalidRequestError):
        await session.execute(text("SELECT 1"))


async def test_only_the_end_of_its_block_commits_a_transaction(
    resources: ProcessResources, clean: None
) -> None:
    async def commit(session: AsyncSession) -> None:
        session.add(User(**ROW))
        await session.commit()

    async def commit_in_a_block(session: AsyncSession) -> None:
        async with session.begin():
            session.add(User(**ROW))

    async def commit_with_an_open_savepoint(session: AsyncSession) -> None:
        await session.begin_nested()
        await commit(session)

    for way in (commit, commit_in_a_block, commit_with_an_open_savepoint):
        with pytest.raises(TypeError, match="Do not commit it"):
            async with resources.database.transaction() as session:
                await way(session)
        assert await stored(resources) == 0


async def test_savepoint_keeps_or_undoes_its_own_changes(
    resources: ProcessResources, clean: None
) -> None:
    async with resources.database.transaction() as session:
        async with session.begin_nested():
            session.add(User(**ROW))
        with pytest.raises(IntegrityError):
            async with session.begin_nested():
                session.add(User(**ROW))
        assert await stored(resources) == 0
    assert await stored(resources) == 1


async def test_unused_session_takes_no_connection(
    app_of_the_test: FastAPI, caller: httpx2.AsyncClient
) -> None:
    pool = app_of_the_test.state.resources.database.engine.pool

    @app_of_the_test.get("/unused")
    async def unused(reads: ReadSession, writes: WriteSession) -> int:
        taken: int = pool.checkedout()
        return taken

    assert (await caller.get("/unused")).json() == 0
    assert pool.checkedin() == 0  # the pool has opened no connection


async def test_every_connection_is_returned_before_the_response(
    app_of_the_test: FastAPI, caller: httpx2.AsyncClient, make: NoteFactory
) -> None:
    user = await make.user()
    pool = app_of_the_test.state.resources.database.engine.pool
    await asyncio.gather(*(caller.get(f"/v1/users/{user.id}") for _ in range(20)))
    assert pool.checkedout() == 0


async def test_lost_connection_is_replaced(
    app_of_the_test: FastAPI,
    caller: httpx2.AsyncClient,
    resources: ProcessResources,
    make: NoteFactory,
) -> None:
    user = await make.user()
    url = f"/v1/users/{user.id}"
    assert (await caller.get(url)).status_code == 200
    async with resources.database.transaction() as session:
        await session.execute(
            text(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        )
    assert (await caller.get(url)).status_code == 200


async def test_write_whose_connection_is_lost_before_its_rows_are_sent_runs_again(
    app_of_the_test: FastAPI, caller: httpx2.AsyncClient, resources: ProcessResources
) -> None:
    """The rows are sent before COMMIT, so it is known that they were not stored."""
    runs = []

    @app_of_the_test.post("/write")
    async def write(session: WriteSession) -> None:
        runs.append("run")
        process_id = await session.scalar(text("SELECT pg_backend_pid()"))
        if len(runs) == 1:
            async with resources.database.read() as other:
                await other.execute(text(f"SELECT pg_terminate_backend({process_id}, 5000)"))
        session.add(User(**ROW))

    assert (await caller.post("/write")).status_code == 200
    assert runs == ["run", "run"]
    assert await stored(resources) == 1


async def test_error_message_does_not_contain_the_row(
    resources: ProcessResources, clean: None
) -> None:
    with pytest.raises(IntegrityError) as failure:
        async with resources.database.transaction() as session:
            session.add(User(email="secret@example.com", password_hash="$argon2id$secret"))
            await session.flush()
    shown = "".join(traceback.format_exception(failure.value))
    assert "not-null constraint" in shown
    assert "secret" not in shown
