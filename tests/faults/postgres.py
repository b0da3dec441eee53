"""A PostgreSQL that a test may kill, start again, freeze and thaw.

No supervisor watches this PostgreSQL, because it would exit with it. Faults reach the process
that was started here and its children, and nothing else. Valkey is the one that all tests share.
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

# It exits together with the process that runs the tests, even if that is killed.
LEASH = ("setpriv", "--pdeathsig", "INT", "--") if shutil.which("setpriv") else ()


@dataclass
class Backend:
    """The addresses of both servers. `process` is PostgreSQL's postmaster."""

    database_url: str
    valkey_url: str
    process: subprocess.Popen[bytes]

    def kill(self) -> None:
        """Kill the postmaster. Its backends notice this, and exit."""
        self.process.kill()
        self.process.wait()

    def start_again(self) -> None:
        """Start PostgreSQL on the same data and the same port."""
        arguments = self.process.args
        assert isinstance(arguments, list)
        self.process = spawn(arguments, output=subprocess.DEVNULL)

    def freeze(self) -> None:
        """Stop (SIGSTOP) every process of PostgreSQL."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let all processes continue."""
        self._signal(signal.SIGCONT)

    async def returned(self) -> None:
        """Wait until PostgreSQL accepts connections."""
        while True:
            with suppress(OSError, asyncpg.PostgresError):
                await self.rows("SELECT 1")
                return
            await asyncio.sleep(0.05)

    async def rows(self, query: str) -> list[asyncpg.Record]:
        """Run a query on a connection of its own."""
        connection = await asyncpg.connect(self.database_url, timeout=5)
        try:
            return await connection.fetch(query)
        finally:
            await connection.close()

    async def idle_in_transaction(self) -> list[str]:
        """Return a sentence if transactions are idle."""
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
    """Start PostgreSQL and migrate the schema. Commits are durable, so a kill loses none."""
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
