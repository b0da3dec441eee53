"""The database refuses a statement or rolls a transaction back.

These cases judge outcomes and no times, so they run with the ordinary tests too.
"""

import asyncio
from collections.abc import AsyncIterator

import httpx2
import pytest
from fastapi import FastAPI
from sqlalchemy import make_url, text

from app.features.users.models import User
from app.infra.database.settings import DatabaseSettings
from app.infra.dependencies import WriteSession
from app.settings import Settings
from tests.application import client_of, running
from tests.faults.conftest import Judge
from tests.faults.controls import without
from tests.faults.load import timed, unexpected
from tests.faults.verdicts import GUARDED
from tests.sample.factory import NoteFactory

RENAME = text("UPDATE users SET name = name || '!' WHERE id = :id")
KEEP = text("SELECT 1 FROM test_notes WHERE id = :id FOR UPDATE")
END = text("SELECT pg_terminate_backend(:process_id, 5000)")


@pytest.fixture
async def control(request: pytest.FixtureRequest) -> AsyncIterator[str]:
    """Remove the safeguard that the control names while the case runs."""
    async with without(request.param):
        yield request.param


@pytest.fixture
async def troubled(control: str, settings: Settings, clean: None) -> AsyncIterator[FastAPI]:
    """An application to which a test adds routes."""
    async with running(settings) as app:
        yield app


@pytest.fixture
async def caller(troubled: FastAPI) -> AsyncIterator[httpx2.AsyncClient]:
    async with client_of(troubled) as client:
        yield client


@pytest.mark.parametrize(
    "control", [GUARDED, "with SQLAlchemy's default pool and timeouts"], indirect=True
)
async def test_a_row_that_stays_locked(
    caller: httpx2.AsyncClient, make: NoteFactory, judge: Judge, control: str
) -> None:
    author = await make.user()
    note = await make.note(author)
    url, headers = f"/test/notes/{note.id}", make.headers(author)
    async with make.resources.database.transaction() as session:
        await session.execute(KEEP, {"id": note.id})
        change = timed(caller, "PATCH", url, json={"title": "T"}, headers=headers)
        waiting = asyncio.create_task(change)
        await asyncio.wait(
            {waiting}, timeout=make.resources.settings[DatabaseSettings].lock_timeout_seconds + 2
        )
    answer = await waiting
    judge("A row stays locked", control, f"status {answer.status}", unexpected([answer], (503,)))


@pytest.mark.parametrize(
    "control",
    [GUARDED, "without retries and without the mapping of database errors"],
    indirect=True,
)
async def test_a_deadlock(
    troubled: FastAPI, caller: httpx2.AsyncClient, make: NoteFactory, judge: Judge, control: str
) -> None:
    ids = [(await make.user(name="A")).id for _ in range(2)]
    both, begun = asyncio.Barrier(2), list[int]()

    @troubled.post("/rename/{first}/{second}")
    async def rename(first: int, second: int, session: WriteSession) -> None:
        await session.execute(RENAME, {"id": first})
        begun.append(first)
        if len(begun) <= 2:  # the third call is a retry
            await both.wait()
        await session.execute(RENAME, {"id": second})

    paths = ("/rename/{}/{}".format(*order) for order in (ids, ids[::-1]))
    answers = await asyncio.gather(*(timed(caller, "POST", path) for path in paths))
    statuses = [answer.status for answer in answers]
    expected = ["A" + "!" * statuses.count(200)] * 2
    broken = unexpected(answers, (200, 503)) + ["a transaction was stored in part"] * (
        await names(make) != expected
    )
    figure = f"statuses {statuses[0]} and {statuses[1]} in {len(begun)} attempts"
    judge("Two transactions deadlock", control, figure, broken)


@pytest.mark.parametrize("control", [GUARDED, "without retries"], indirect=True)
async def test_a_connection_that_is_ended_within_a_transaction(
    troubled: FastAPI, caller: httpx2.AsyncClient, make: NoteFactory, judge: Judge, control: str
) -> None:
    attempts: list[int] = []

    @troubled.post("/ended")
    async def ended(session: WriteSession) -> None:
        session.add(User(email="ann@example.com", name="Ann", password_hash="x"))
        await session.flush()
        attempts.append(await session.scalar(text("SELECT pg_backend_pid()")) or 0)
        if len(attempts) == 1:
            async with make.resources.database.read() as other:
                await other.execute(END, {"process_id": attempts[0]})
        await session.execute(text("SELECT 1"))

    answer = await timed(caller, "POST", "/ended")
    stored = await names(make)
    twice = [f"{len(stored)} rows"] * (len(stored) > 1)
    figure = f"status {answer.status} in attempt {len(attempts)}, {len(stored)} row stored"
    judge(
        "A database connection is terminated in a transaction",
        control,
        figure,
        unexpected([answer], (200,)) + twice,
    )


@pytest.mark.parametrize(
    "control", [GUARDED, "with SQLAlchemy's default pool and timeouts"], indirect=True
)
async def test_a_server_that_refuses_connections(
    settings: Settings, judge: Judge, control: str
) -> None:
    url = make_url(settings.database.url.get_secret_value())
    answers = []
    for wrong in (url.set(password="wrong"), url.set(database="nowhere")):
        values = {"database": {"url": wrong.render_as_string(hide_password=False)}}
        refused = Settings.model_validate({**settings.model_dump(), **values})
        async with running(refused) as app, client_of(app) as client:
            answers.append(await timed(client, "GET", "/v1/posts/1"))
    figure = " and ".join(f"status {answer.status}" for answer in answers)
    judge(
        "PostgreSQL refuses the password or the database name",
        control,
        figure,
        unexpected(answers, (503,)),
    )


async def names(make: NoteFactory) -> list[str]:
    """Return the names of all users."""
    async with make.resources.database.read() as session:
        return list(await session.scalars(text("SELECT name FROM users")))
