"""The demo data is complete, and the same each time."""

import asyncio
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import asyncpg
import httpx2
import pytest
from fastapi import FastAPI

from dev import demo as modules
from dev.demo.users import DEMO_EMAIL, DEMO_PASSWORD
from dev.demo_data import DatabaseNotEmpty, demo_tables, demos, load
from dev.features import features_in_order
from dev.servers import ROOT

SIZE = 200
TABLES = {table.name: table.total for table in demo_tables(SIZE)}
# Sends itself SIGTERM while it stores posts.
TERMINATED = """
import asyncio, os, signal, sys
from dev.demo_data import load
from dev.run import interrupt

def progress(table, done, total):
    if (table, done) == ("posts", 100):
        os.kill(os.getpid(), signal.SIGTERM)

signal.signal(signal.SIGTERM, interrupt)
try:
    asyncio.run(load(sys.argv[1], 200, progress=progress))
except KeyboardInterrupt:
    print("interrupted", end="")
"""


def quiet(_table: str, _done: int, _total: int) -> None:
    """Show no progress."""


@pytest.fixture
async def connection(database_url: str, clean: None) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


async def test_every_row_is_loaded_and_new_rows_get_the_next_ids(
    database_url: str, connection: asyncpg.Connection
) -> None:
    await load(database_url, SIZE, progress=quiet)
    assert TABLES["users"] == SIZE // 10
    for table, number in TABLES.items():
        assert await connection.fetchval(f"SELECT count(*) FROM {table}") == number
        last = await connection.fetchval(f"SELECT nextval(pg_get_serial_sequence('{table}', 'id'))")
        assert last == number + 1


async def test_a_load_that_is_terminated_ends_quietly_and_stores_nothing(
    database_url: str, connection: asyncpg.Connection
) -> None:
    command = [sys.executable, "-c", TERMINATED, database_url]
    run = partial(subprocess.run, cwd=ROOT, capture_output=True, encoding="utf-8", timeout=60)
    ended = await asyncio.to_thread(run, command)
    assert (ended.stdout, ended.stderr, ended.returncode) == ("interrupted", "", 0)
    for table in TABLES:
        assert await connection.fetchval(f"SELECT count(*) FROM {table}") == 0


async def test_each_load_stores_the_same_rows(
    database_url: str, connection: asyncpg.Connection
) -> None:
    digests = []
    for _ in range(2):
        await load(database_url, SIZE, progress=quiet)
        digests.append(
            [
                await connection.fetchval(
                    f"SELECT md5(string_agg(t::text, '' ORDER BY id)) FROM {table} t"
                )
                for table in TABLES
            ]
        )
        await connection.execute(f"TRUNCATE {', '.join(TABLES)} CASCADE")
    assert digests[0] == digests[1]


async def test_a_database_with_users_is_not_changed(
    database_url: str, connection: asyncpg.Connection
) -> None:
    await load(database_url, 10, progress=quiet)
    with pytest.raises(DatabaseNotEmpty):
        await load(database_url, 20, progress=quiet)
    assert await connection.fetchval("SELECT count(*) FROM users") == 1


async def test_the_demo_user_can_log_in(database_url: str, client: httpx2.AsyncClient) -> None:
    await load(database_url, 10, progress=quiet)
    form = {"username": DEMO_EMAIL, "password": DEMO_PASSWORD}
    response = await client.post("/v1/auth/token", data=form)
    assert response.status_code == 200


def test_every_page_and_command_that_is_shown_uses_a_route_that_exists(app: FastAPI) -> None:
    for demo in demos():
        commands = {**demo.commands, **demo.commands_with_token}.values()
        paths = [path for command in commands for path in re.findall(r"{url}(/[^'?]*)", command)]
        assert len(paths) >= len(commands)
        for path in [*paths, *demo.pages.values()]:
            assert app.state.route_table.template("GET", path), path


def test_every_module_belongs_to_a_feature() -> None:
    names = {file.stem for file in Path(modules.__path__[0]).glob("*.py")} - {"__init__"}
    assert names <= set(features_in_order())
