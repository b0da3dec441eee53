"""With PgBouncer in transaction mode in front of PostgreSQL, everything holds as without it."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest

from app.infra.database.pgbouncer import session_timeouts
from app.infra.database.settings import DatabaseSettings
from dev.servers import ROOT
from tests.faults.author import Author, sign_up
from tests.faults.conftest import Judge
from tests.faults.history import repeated, run_history
from tests.faults.load import Answer, constantly, late, slowest, timed, unexpected
from tests.faults.pooler import open_pooler
from tests.faults.postgres import Backend
from tests.faults.service import Service, serving
from tests.faults.verdicts import GUARDED
from tests.tables import SERVICE_TABLES, truncate

pytestmark = pytest.mark.faults
POOLER, NO_CACHE = {"pooler": True}, {"enabled": False}
RATE = 60
OTHERS = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
"""
TIMEOUTS = session_timeouts(DatabaseSettings())


@pytest.fixture
async def pooled(
    backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Backend]:
    """The backend behind PgBouncer, without rows. Its role has timeouts."""
    monkeypatch.setenv("DATABASE_POOLER", "true")  # for the master, which checks the timeouts
    await backend.rows(truncate(SERVICE_TABLES))
    await set_timeouts(backend, TIMEOUTS)
    with open_pooler(backend, tmp_path / "pgbouncer") as pooled:
        await pooled.returned()
        yield pooled
    await backend.rows("ALTER ROLE app RESET ALL")


async def set_timeouts(backend: Backend, timeouts: dict[str, float]) -> None:
    for name, seconds in timeouts.items():
        await backend.rows(f"ALTER ROLE app SET {name} = '{seconds}s'")


async def sign_up_at_last(service: Service) -> Author:
    """Sign up, with as many attempts as needed: with a control, this fails too."""
    while True:
        with suppress(httpx2.HTTPStatusError, KeyError):
            return await sign_up(service.client)


@pytest.mark.parametrize("control", [GUARDED, "with named prepared statements"])
async def test_requests_are_answered_as_without_it(
    backend: Backend,
    pooled: Backend,
    monkeypatch: pytest.MonkeyPatch,
    judge: Judge,
    control: str,
) -> None:
    database, answers = {"pooler": control == GUARDED}, list[Answer]()
    async with serving(pooled, monkeypatch, control, database=database, cache=NO_CACHE) as service:
        author = await sign_up_at_last(service)
        # Many requests at once, so that PgBouncer has several connections on both sides.
        answers += await asyncio.gather(*map(author.send, range(50)))
        async with constantly(RATE, author.send, answers):
            await asyncio.sleep(10)
        broken = [
            *unexpected(answers, (200, 201)),
            *await author.broken_promises(backend),
            *await backend.idle_in_transaction(),
        ]
    kept = len(author.acknowledged)
    figure = (
        f"{len(answers)} requests served, the slowest in {slowest(answers):.2f} s; {kept} "
        "acknowledged writes, each stored once"
    )
    judge("PgBouncer in transaction mode", control, figure, broken)


@pytest.mark.parametrize("control", [GUARDED, "without retries"])
async def test_its_connections_to_the_server_are_cut_again_and_again(
    backend: Backend,
    pooled: Backend,
    monkeypatch: pytest.MonkeyPatch,
    judge: Judge,
    control: str,
) -> None:
    answers: list[Answer] = []

    async def cut() -> None:
        await backend.rows(OTHERS)

    async with serving(pooled, monkeypatch, control, database=POOLER, cache=NO_CACHE) as service:
        author = await sign_up(service.client)

        async def hold(_: int) -> Answer:
            """Run a statement that is in progress when the connections are cut."""
            return await timed(service.client, "GET", "/faults/hold/0.05")

        async with (
            repeated(cut, 1),
            constantly(RATE, author.send, answers),
            constantly(RATE / 3, hold, answers),
        ):
            await asyncio.sleep(10)
        cut_commits = sum(answer.is_open for answer in answers)
        broken = [
            *unexpected((answer for answer in answers if not answer.is_open), (200, 201)),
            *await author.broken_promises(backend),
        ]
    figure = (
        f"{len(answers)} requests, {cut_commits} of them cut off during the commit, no other "
        f"failed; {len(author.acknowledged)} acknowledged writes, each stored once"
    )
    judge("PgBouncer: its connections to PostgreSQL are cut every second", control, figure, broken)


@pytest.mark.parametrize("control", [GUARDED, "without timeouts of the database role"])
async def test_timeouts_are_those_of_the_role(
    backend: Backend,
    pooled: Backend,
    monkeypatch: pytest.MonkeyPatch,
    judge: Judge,
    control: str,
) -> None:
    if control != GUARDED:
        await backend.rows("ALTER ROLE app RESET ALL")
        await backend.rows(OTHERS)  # so that PgBouncer connects again
    async with serving(pooled, monkeypatch, control, database=POOLER) as service:
        held = [timed(service.client, "GET", "/faults/hold/30") for _ in range(10)]
        answers = await asyncio.gather(*held)
    broken = [*unexpected(answers, (503,)), *late("a 503 response came", slowest(answers), 5.5)]
    figure = f"{len(answers)} requests got status 503, the slowest after {slowest(answers):.2f} s"
    judge("PgBouncer: SQL statements do not end", control, figure, broken)


@pytest.mark.parametrize("control", [GUARDED, "with an ordinary cache"])
async def test_no_read_shows_less_than_was_acknowledged(
    backend: Backend,
    pooled: Backend,
    monkeypatch: pytest.MonkeyPatch,
    judge: Judge,
    control: str,
) -> None:
    slow = "slow_fills"
    async with serving(pooled, monkeypatch, control, trouble=slow, database=POOLER) as service:
        history = await run_history(service, backend, 12, nullcontext())
    judge("PgBouncer: many reads and writes", control, history.figure, history.broken())


async def test_replicas_that_migrate_through_it_at_once_take_turns(
    backend: Backend, pooled: Backend
) -> None:
    await backend.rows("CREATE DATABASE migrated")
    url = urlsplit(pooled.database_url)._replace(path="/migrated").geturl()
    environment = {"DATABASE_URL": url, "DATABASE_POOLER": "true", "CACHE_ENABLED": "false"}
    commands = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "alembic", "upgrade", "head"),
            cwd=ROOT,
            env=os.environ | environment,
            stderr=subprocess.PIPE,
        )
        for _ in range(3)
    ]
    outputs = await asyncio.gather(*(command.communicate() for command in commands))
    assert [command.returncode for command in commands] == [0, 0, 0], outputs
    direct = urlsplit(backend.database_url)._replace(path="/migrated").geturl()
    migrated = replace(backend, database_url=direct)
    assert len(await migrated.rows("SELECT version_num FROM alembic_version")) == 1


async def test_a_role_without_timeouts_is_named_at_start_up(
    backend: Backend, pooled: Backend
) -> None:
    await backend.rows("ALTER ROLE app RESET lock_timeout")
    await backend.rows(OTHERS)
    production = {
        "ENVIRONMENT": "production",
        "AUTH_SECRET": "s" * 32,
        "DATABASE_URL": pooled.database_url,
        "SERVER_PORT": "0",
    }
    started = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "app.serve"),
        cwd=ROOT,
        env=os.environ | production,
        stderr=subprocess.PIPE,
    )
    _, message = await asyncio.wait_for(started.communicate(), 30)
    assert started.returncode
    assert b"ALTER ROLE" in message
    assert b"SET lock_timeout = '2000ms'" in message
    assert b"statement_timeout" not in message
    assert b"Traceback" not in message
