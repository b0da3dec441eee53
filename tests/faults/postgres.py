"""A PostgreSQL of the test's own, to be killed, started again, frozen and thawed.

It has no supervisor, which would end with it. Faults reach the process that was started here
and its children, and nothing else. Valkey is the one that all tests share.
"""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import asyncpg

from dev.postgres import postgres_program, start_postgres
from dev.server_process import spawn
from dev.servers import ROOT

# It ends with whoever runs the tests, however they end.
LEASH = ("setpriv", "--pdeathsig", "INT", "--") if shutil.which("setpriv") else ()


@dataclass
class Backend:
    """Where both servers are; `process` is the postmaster's."""

    database_url: str
    valkey_url: str
    process: subprocess.Popen[bytes]

    def kill(self) -> None:
        """End PostgreSQL without a word; its backends notice, and end as well."""
        self.process.kill()
        self.process.wait()

    def start_again(self) -> None:
        """Start PostgreSQL where it was, on the same port."""
        arguments = self.process.args
        assert isinstance(arguments, list)
        self.process = spawn(arguments, output=subprocess.DEVNULL)

    def freeze(self) -> None:
        """Stop every process of PostgreSQL in the middle of whatever it does."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let them go on."""
        self._signal(signal.SIGCONT)

    async def returned(self) -> None:
        """Return when it lets somebody in."""
        while True:
            with suppress(OSError, asyncpg.PostgresError):
                await self.rows("SELECT 1")
                return
            await asyncio.sleep(0.05)

    async def rows(self, query: str) -> list[asyncpg.Record]:
        """Ask, on a connection of its own."""
        connection = await asyncpg.connect(self.database_url, timeout=5)
        try:
            return await connection.fetch(query)
        finally:
            await connection.close()

    async def idle_in_transaction(self) -> list[str]:
        """Name the transactions that nobody works in."""
        query = "SELECT pid FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'"
        number = len(await self.rows(query))
        return [f"{number} transactions left idle"] * bool(number)

    def _signal(self, number: signal.Signals) -> None:
        postmaster = self.process.pid
        children = (
            Path(f"/proc/{postmaster}/task/{postmaster}/children")
            .read_text(encoding="utf-8")
            .split()
        )
        for process_id in (postmaster, *map(int, children)):
            with suppress(ProcessLookupError):
                os.kill(process_id, number)


@contextmanager
def open_backend(folder: Path) -> Iterator[Backend]:
    """Start it and migrate the schema. Commits are durable, or a kill would lose some."""
    program = replace(postgres_program(folder), prefix=LEASH)
    with ExitStack() as stack:
        postgres, url = start_postgres(program, durable=True, say=lambda _: None)
        backend = Backend(url, os.environ["TEST_VALKEY_URL"], postgres.process)
        stack.callback(lambda: replace(postgres, process=backend.process).stop())
        stack.callback(backend.thaw)
        subprocess.run(
            [sys.executable, "-m", "alembic", "upgrade", "head"],
            cwd=ROOT,
            env=os.environ | {"DATABASE_URL": url},
            check=True,
        )
        yield backend
