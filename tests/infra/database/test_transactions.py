"""Statements that asyncpg sends in a transaction end with it, and never remain without one."""

import asyncio
from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, PendingRollbackError, ResourceClosedError

from app.features.users.models import AuthorRow
from app.infra.database.error_mapping import is_safe_to_retry
from app.infra.database.transactions import fetch_in
from app.infra.resources import ProcessResources
from tests.sample.factory import NoteFactory
from tests.sample.notes import NEW_NOTE, NOTE_BY_ID

AUTHOR = AuthorRow(0, "Nobody", None)
OWN_ID = "SELECT pg_backend_pid()"


async def test_a_failed_statement_whose_error_is_caught_is_never_committed(
    resources: ProcessResources, make: NoteFactory
) -> None:
    user = await make.user()
    with pytest.raises(PendingRollbackError, match="has failed"):
        async with resources.database.transaction() as session:
            note = await NEW_NOTE.one(session, author=AUTHOR, author_id=user.id, title="", body="")
            with suppress(DBAPIError):
                await fetch_in(session, "SELECT 1 / 0")
    async with resources.database.read() as session:
        assert await NOTE_BY_ID.first(session, note_id=note.id) is None


async def test_a_failed_statement_inside_a_savepoint_may_be_caught(
    resources: ProcessResources, make: NoteFactory
) -> None:
    user = await make.user()
    async with resources.database.transaction() as session:
        note = await NEW_NOTE.one(session, author=AUTHOR, author_id=user.id, title="", body="")
        with suppress(DBAPIError):
            async with session.begin_nested():
                await fetch_in(session, "SELECT 1 / 0")
    async with resources.database.read() as session:
        assert await NOTE_BY_ID.first(session, note_id=note.id) is not None


async def test_a_cancelled_statement_ends_its_transaction(
    resources: ProcessResources, make: NoteFactory
) -> None:
    user, begun, ids = await make.user(), asyncio.Event(), list[int]()

    async def wait_for_ever() -> None:
        async with resources.database.transaction() as session:
            note = await NEW_NOTE.one(session, author=AUTHOR, author_id=user.id, title="", body="")
            ids.extend([note.id, (await fetch_in(session, OWN_ID))[0][0]])
            begun.set()
            await fetch_in(session, "SELECT pg_sleep(60)")

    task = asyncio.create_task(wait_for_ever())
    await begun.wait()
    await asyncio.sleep(0.05)  # the statement is sent
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    note_id, process_id = ids
    async with resources.database.read() as session:
        assert await NOTE_BY_ID.first(session, note_id=note_id) is None
        activity = text("SELECT count(*) FROM pg_stat_activity WHERE pid = :id AND state <> 'idle'")
        assert await session.scalar(activity, {"id": process_id}) == 0


async def test_a_lost_connection_is_replaced(resources: ProcessResources) -> None:
    with pytest.raises(DBAPIError) as failure:
        async with resources.database.transaction() as session:
            await fetch_in(session, "SELECT pg_terminate_backend(pg_backend_pid())")
    assert failure.value.connection_invalidated
    async with resources.database.transaction() as session:
        assert (await fetch_in(session, "SELECT 1"))[0][0] == 1


async def test_a_connection_that_returns_within_a_transaction_is_not_used_again(
    resources: ProcessResources,
) -> None:
    engine = resources.database.engine
    connection = await engine.raw_connection()
    driver: Any = connection.driver_connection
    await driver.execute("BEGIN")
    connection.close()
    assert driver.is_closed()


async def test_a_connection_without_its_begin_sends_no_statement(
    resources: ProcessResources,
) -> None:
    async with resources.database.engine.connect() as connection:
        driver: Any = (await connection.get_raw_connection()).driver_connection
        running = asyncio.create_task(driver.fetch("SELECT pg_sleep(0.2)"))
        await asyncio.sleep(0)  # the statement is sent, so BEGIN fails
        with pytest.raises(DBAPIError) as failure:
            await connection.execute(text("SELECT 1"))
        assert is_safe_to_retry(failure.value)
        await asyncio.wait([running])
        running.exception()
        with pytest.raises(ResourceClosedError):
            await connection.execute(text("SELECT 1"))


async def test_a_connection_whose_rollback_fails_is_replaced(resources: ProcessResources) -> None:
    running: asyncio.Task[Any]
    with pytest.raises(DBAPIError):
        async with resources.database.transaction() as session:
            await fetch_in(session, "SELECT 1")
            running = asyncio.create_task(fetch_in(session, "SELECT pg_sleep(60)"))
            await asyncio.sleep(0)  # a mistake: a session belongs to one task
            raise ZeroDivisionError
    await asyncio.wait([running])
    running.exception()
    assert resources.database.engine.pool.checkedout() == 0  # type: ignore[attr-defined]


async def test_a_transaction_of_the_engine_is_one(resources: ProcessResources) -> None:
    with pytest.raises(ZeroDivisionError):
        async with resources.database.engine.begin() as connection:
            await connection.execute(text("CREATE TABLE undone (id int)"))
            raise ZeroDivisionError
    async with resources.database.read() as session:
        assert await session.scalar(text("SELECT to_regclass('undone')")) is None


@pytest.mark.parametrize("level", ["SERIALIZABLE", "REPEATABLE_READ"])
async def test_a_transaction_has_the_level_that_is_asked_for(
    resources: ProcessResources, make: NoteFactory, level: str
) -> None:
    user = await make.user()
    with pytest.raises(ZeroDivisionError):
        async with resources.database.transaction() as session:
            await session.connection(execution_options={"isolation_level": level})
            note = await NEW_NOTE.one(session, author=AUTHOR, author_id=user.id, title="", body="")
            found = await session.scalar(text("SELECT current_setting('transaction_isolation')"))
            assert found == level.lower().replace("_", " ")
            raise ZeroDivisionError
    async with resources.database.transaction() as session:
        assert await session.scalar(text("SELECT current_setting('transaction_isolation')")) == (
            "read committed"
        )
        assert await NOTE_BY_ID.first(session, note_id=note.id) is None


async def test_a_transaction_can_be_read_only_and_deferrable(resources: ProcessResources) -> None:
    options = {
        "isolation_level": "SERIALIZABLE",
        "postgresql_readonly": True,
        "postgresql_deferrable": True,
    }
    async with resources.database.transaction() as session:
        await session.connection(execution_options=options)
        for name in ("read_only", "deferrable"):
            setting = text(f"SELECT current_setting('transaction_{name}')")
            assert await session.scalar(setting) == "on"
