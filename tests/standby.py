"""A streaming replica of a PostgreSQL that runs already: to be paused, killed and promoted."""

import asyncio
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg

from dev.postgres import is_ready, options, postgres_binary, unprivileged
from dev.server_process import Program, Server, spawn, start_on_free_port

LEASH = ("setpriv", "--pdeathsig", "INT", "--") if shutil.which("setpriv") else ()


@dataclass
class Standby:
    """Where it is, by the name of each database, and its process."""

    server: Server
    base_url: str

    def url(self, database_url: str) -> str:
        """Return where the same database is on the replica."""
        return self.base_url + urlsplit(database_url).path

    def kill(self) -> None:
        """End it without a word."""
        self.server.process.kill()
        self.server.process.wait()

    def signal(self, number: signal.Signals) -> None:
        """Stop all of its processes, or let them go on. One that was killed has none."""
        if self.server.process.poll() is not None:
            return
        parent = self.server.process.pid
        children = (
            Path(f"/proc/{parent}/task/{parent}/children").read_text(encoding="utf-8").split()
        )
        for process_id in (parent, *map(int, children)):
            with suppress(ProcessLookupError):
                os.kill(process_id, number)

    async def ask(self, query: str) -> object:
        """Ask for one value, on a connection of its own."""
        connection = await asyncpg.connect(f"{self.base_url}/postgres", timeout=5)
        try:
            return await connection.fetchval(query)
        finally:
            await connection.close()


@contextmanager
def open_standby(primary_url: str, folder: Path) -> Iterator[Standby]:
    """Copy the primary and follow it. It ends with this context, or with whoever runs the tests."""
    data = folder / "standby"
    try:
        _copy(primary_url, data)
        command = [postgres_binary("postgres"), "-D", str(data), *options(durable=False)]
        server = start_on_free_port(
            Program("the replica", "standby", folder, signal.SIGINT, (*unprivileged(), *LEASH)),
            lambda port: [*command, "-p", str(port)],
            lambda _: is_ready(data),
        )
        primary = urlsplit(primary_url)
        netloc = f"{primary.username}:{primary.password}@127.0.0.1:{server.port}"
        standby = Standby(server, f"postgresql://{netloc}")
        try:
            yield standby
        finally:
            standby.signal(signal.SIGCONT)  # one that is frozen would not hear of the end
            server.stop()
    finally:
        shutil.rmtree(data, ignore_errors=True)


def _copy(primary_url: str, data: Path) -> None:
    command = [
        *(postgres_binary("pg_basebackup"), f"--dbname={primary_url}", f"--pgdata={data}"),
        *("--checkpoint=fast", "--wal-method=stream", "--write-recovery-conf", "--no-sync"),
    ]
    process = spawn([*unprivileged(), *command], output=subprocess.PIPE)
    output = process.communicate()[0]
    assert process.returncode == 0, output.decode()


async def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Wait for what is to become so."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.02)
