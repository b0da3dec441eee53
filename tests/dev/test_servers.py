"""The embedded servers: shared in one folder, and gone with their owner however that ends."""

import asyncio
import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import asyncpg
import pytest
from redis.asyncio import Redis

from dev.servers import embedded_servers, running_servers

PROJECT = Path(__file__).parents[2]
OWNER = """
import sys, time
from pathlib import Path
from dev.servers import embedded_servers
with embedded_servers(Path(sys.argv[1]), durable=False, say=lambda _: None) as servers:
    print(servers.database_url, flush=True)
    time.sleep(60)
"""


async def answer(database_url: str) -> int:
    connection = await asyncpg.connect(database_url, timeout=5)
    one: int = await connection.fetchval("SELECT 1")
    await connection.close()
    return one


async def test_servers_are_real_shared_and_keep_their_data(tmp_path: Path) -> None:
    folder = tmp_path / "with a space"
    with embedded_servers(folder, say=lambda _: None) as servers:
        connection = await asyncpg.connect(servers.database_url)
        await connection.execute("CREATE TABLE kept ()")
        await connection.close()
        async with Redis.from_url(servers.valkey_url) as valkey:
            assert await valkey.ping()
        with embedded_servers(folder) as shared:
            assert shared == servers == running_servers(folder)
        assert await answer(servers.database_url) == 1
    assert running_servers(folder) is None
    with pytest.raises(ConnectionError):
        await answer(servers.database_url)
    with embedded_servers(folder, say=lambda _: None) as servers:
        connection = await asyncpg.connect(servers.database_url)
        assert await connection.fetch("SELECT * FROM kept") == []
        await connection.close()


async def test_the_variables_of_libpq_do_not_reach_the_servers(tmp_path: Path) -> None:
    names = ("PGSSLMODE", "PGDATESTYLE", "PGPORT", "PGDATA", "PGUSER", "PGCLIENTENCODING")
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        for name in names:
            patch.setenv(name, "wrong")
        servers = stack.enter_context(embedded_servers(tmp_path, durable=False, say=lambda _: None))
        patch.undo()
        assert await answer(servers.database_url) == 1


async def test_nobody_enters_without_the_password(tmp_path: Path) -> None:
    with embedded_servers(tmp_path, durable=False, say=lambda _: None) as servers:
        head, _, tail = servers.database_url.rpartition("@")
        user = head.rsplit(":", 1)[0]
        with pytest.raises(asyncpg.InvalidPasswordError):
            await answer(f"{user}:guess@{tail}")
    assert all(not path.stat().st_mode & 0o077 for path in tmp_path.glob("*password*"))


async def test_servers_end_with_an_owner_that_is_killed(tmp_path: Path) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path)],
        cwd=PROJECT,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )
    assert owner.stdout is not None
    with owner:
        database_url = owner.stdout.readline().strip()
        assert await answer(database_url) == 1
        owner.send_signal(signal.SIGKILL)
    async with asyncio.timeout(30):
        while running_servers(tmp_path) is not None:
            await asyncio.sleep(0.05)
    with pytest.raises(ConnectionError):
        await answer(database_url)
