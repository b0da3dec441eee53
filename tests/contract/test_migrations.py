"""The migrations: up from empty, one down and up again, in agreement with the models."""

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from app.infra.database.schema_version import read_revisions

PROJECT = Path(__file__).parents[2]


def alembic(url: str, *arguments: str) -> subprocess.Popen[str]:
    """Start alembic as `make migrate` and the deployment do."""
    return subprocess.Popen(
        [sys.executable, "-m", "alembic", *arguments],
        cwd=PROJECT,
        env={**os.environ, "DATABASE_URL": url, "VALKEY_URL": os.environ["TEST_VALKEY_URL"]},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
    )


def run(url: str, *arguments: str) -> str:
    process = alembic(url, *arguments)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    return output


@pytest.fixture
async def empty_database(worker_id: str) -> AsyncIterator[str]:
    """A database without a table."""
    base, _, _ = os.environ["TEST_DATABASE_URL"].rpartition("/")
    name = f"empty_{worker_id}"
    connection = await asyncpg.connect(f"{base}/postgres")
    await connection.execute(f"CREATE DATABASE {name}")
    yield f"{base}/{name}"
    await connection.execute(f"DROP DATABASE {name} (FORCE)")
    await connection.close()


async def schema(url: str) -> list[tuple[object, ...]]:
    """Return every column and index."""
    connection = await asyncpg.connect(url)
    rows = await connection.fetch(
        "SELECT table_name, column_name, data_type || coalesce(column_default, '') "
        "FROM information_schema.columns WHERE table_schema = 'public' "
        "UNION ALL SELECT tablename, indexname, indexdef FROM pg_indexes "
        "WHERE schemaname = 'public' ORDER BY 1, 2"
    )
    await connection.close()
    return [tuple(row) for row in rows]


async def test_every_step_goes_down_and_up_again(empty_database: str) -> None:
    revisions = run(empty_database, "history").count("->")
    before = await schema(empty_database)
    for _ in range(revisions):
        run(empty_database, "upgrade", "+1")
        after = await schema(empty_database)
        run(empty_database, "downgrade", "-1")
        below = await schema(empty_database)
        assert [row for row in below if row[0] != "alembic_version"] == before
        run(empty_database, "upgrade", "+1")
        assert await schema(empty_database) == after
        before = [row for row in after if row[0] != "alembic_version"]
    assert "No new upgrade operations" in run(empty_database, "check")


async def test_replicas_that_migrate_at_once_take_turns(empty_database: str) -> None:
    processes = [alembic(empty_database, "upgrade", "head") for _ in range(4)]
    outputs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, outputs
    assert read_revisions().head in run(empty_database, "current")


def test_a_revision_that_we_do_not_know_is_newer() -> None:
    revisions = read_revisions()
    assert not revisions.is_behind(revisions.head)
    assert not revisions.is_behind("unknown")
    assert revisions.is_behind(None)
    assert revisions.is_behind("0001")
