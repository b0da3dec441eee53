"""The migrations run in both directions, and agree with the models of every feature."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
from alembic.command import downgrade, upgrade
from sqlalchemy import Enum, text

from app.infra.database.base import Base
from app.infra.database.schema_version import read_revisions
from app.infra.resources import ProcessResources
from tests.migrations import run_alembic

PROJECT = Path(__file__).parents[2]
CHECKS = text(
    "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) "
    "FROM pg_constraint WHERE contype = 'c'"
)
NEW_MODEL = """
from app.infra.database.base import Base

class FoundThing(Base):
    __tablename__ = "found_things"
"""


def alembic(url: str, *arguments: str, project: Path = PROJECT) -> subprocess.Popen[str]:
    """Start alembic as `make migrate` and the deployment do."""
    return subprocess.Popen(
        [sys.executable, "-m", "alembic", *arguments],
        cwd=project,
        env={**os.environ, "DATABASE_URL": url, "VALKEY_URL": os.environ["TEST_VALKEY_URL"]},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
    )


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


async def test_every_migration_can_be_reverted_and_repeated(empty_database: str) -> None:
    revisions = read_revisions()
    before = await schema(empty_database)
    for _ in range(len(revisions.older) + 1):
        await run_alembic(upgrade, empty_database, "+1")
        after = await schema(empty_database)
        await run_alembic(downgrade, empty_database, "-1")
        below = await schema(empty_database)
        assert [row for row in below if row[0] != "alembic_version"] == before
        await run_alembic(upgrade, empty_database, "+1")
        assert await schema(empty_database) == after
        before = [row for row in after if row[0] != "alembic_version"]
    # This process also has the models of the tests, which no migration makes.
    output = alembic(empty_database, "check").communicate()[0]
    assert "No new upgrade operations" in output


async def test_model_in_a_new_feature_folder_is_found(empty_database: str, tmp_path: Path) -> None:
    shutil.copy(PROJECT / "pyproject.toml", tmp_path)
    for folder in ("app", "coherent_cache", "graceful_gunicorn", "migrations"):
        shutil.copytree(PROJECT / folder, tmp_path / folder)
    for name, content in (("__init__.py", ""), ("models.py", NEW_MODEL)):
        file = tmp_path / "app" / "features" / "found_things" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(content, encoding="utf-8")
    await run_alembic(upgrade, empty_database, "head")
    output = alembic(empty_database, "check", project=tmp_path).communicate()[0]
    assert "add_table" in output
    assert "'found_things'" in output


async def test_table_accepts_the_words_of_each_enum_and_no_others(
    resources: ProcessResources,
) -> None:
    """Alembic does not compare CHECK constraints, so a new member of an enum gets no migration."""
    async with resources.database.read() as session:
        rows = await session.execute(CHECKS)
    stored = {(table, name): set(re.findall(r"'([^']*)'::", rule)) for table, name, rule in rows}
    for table in Base.metadata.tables.values():
        for column in table.columns:
            if not isinstance(column.type, Enum) or column.type.native_enum:
                continue
            name = f"ck_{table.name}_{column.type.name}"
            words = ", ".join(f"'{word}'" for word in column.type.enums)
            assert stored.get((table.name, name)) == set(column.type.enums), (
                f"The CHECK constraint of {table.name}.{column.name} has other words than its enum."
                " Run `make migration`, and write into the new file:\n"
                f'    op.drop_constraint(op.f("{name}"), "{table.name}", type_="check")\n'
                f'    op.create_check_constraint(op.f("{name}"), "{table.name}", '
                f'"{column.name} IN ({words})")'
            )


async def test_replicas_that_migrate_at_once_take_turns(empty_database: str) -> None:
    processes = [alembic(empty_database, "upgrade", "head") for _ in range(4)]
    outputs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, outputs
    connection = await asyncpg.connect(empty_database)
    rows = await connection.fetch("SELECT version_num FROM alembic_version")
    await connection.close()
    assert [tuple(row) for row in rows] == [(read_revisions().head,)]


def test_unknown_revision_counts_as_newer() -> None:
    revisions = read_revisions()
    assert not revisions.is_behind(revisions.head)
    assert not revisions.is_behind("unknown")
    assert revisions.is_behind(None)
    assert revisions.is_behind("0001")
