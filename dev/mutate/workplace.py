"""A copy of the repository with servers of its own, in which the tests of the mutants run."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import asyncpg
from redis import Redis

from dev.database import upgrade
from dev.mutate.mutants import Mutant
from dev.servers import ROOT, Servers, embedded_servers
from dev.terminal import CommandError
from dev.working_tree import git

_OPTIONS = ("-q", "--tb=no", "-p", "no:cacheprovider")
# How long an interrupted test run may take to stop what it started.
_END_SECONDS = 20.0


@contextmanager
def open_workplace(folder: Path) -> Iterator["Workplace"]:
    shutil.rmtree(folder, ignore_errors=True)
    names = git("ls-files", "--cached", "--others", "--exclude-standard", "-z")
    if names is None:
        raise CommandError("This folder is not in a Git repository, so it cannot be copied.")
    for name in filter(lambda name: (ROOT / name).is_file(), names.split("\0")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    with (
        tempfile.TemporaryDirectory() as data,
        embedded_servers(Path(data), durable=False, say=lambda _: None) as servers,
    ):
        upgrade(servers)
        yield Workplace(folder, servers)


@dataclass(frozen=True)
class Workplace:
    folder: Path
    _servers: Servers

    def run(self, *arguments: str, seconds: float | None = None) -> tuple[int | None, str]:
        """Return the exit code of pytest, None if it took too long, and what it printed."""
        asyncio.run(_drop_databases(self._servers.database_url))
        limits_url = self._servers.rate_limits_url or self._servers.valkey_url
        for url in (self._servers.valkey_url, limits_url):
            with Redis.from_url(url) as valkey:
                valkey.flushall()
        environment = os.environ | {
            "TEST_DATABASE_URL": self._servers.database_url,
            "TEST_VALKEY_URL": self._servers.valkey_url,
            "TEST_RATE_LIMITS_URL": limits_url,
        }
        with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "pytest", *_OPTIONS, *arguments],
                cwd=self.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                process_group=0,
            )
            code: int | None = None
            try:
                with suppress(subprocess.TimeoutExpired):
                    code = process.wait(seconds)
            finally:
                _end(process)
            output.seek(0)
            return code, output.read()

    @contextmanager
    def mutated(self, mutant: Mutant) -> Iterator[None]:
        path = self.folder / mutant.path
        original, times = path.read_bytes(), path.stat()
        path.write_text(mutant.source, encoding="utf-8")
        # Python recognizes outdated bytecode by this time, which has a resolution of a second.
        os.utime(path, (times.st_atime, times.st_mtime + 10))
        try:
            yield
        finally:
            path.write_bytes(original)
            os.utime(path, (times.st_atime, times.st_mtime))


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a test run that is still going on: by an interrupt, so that it stops what it started."""
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGINT)
    try:
        process.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


async def _drop_databases(url: str) -> None:
    """Drop what the last test run left. All but the migrated database is its own."""
    connection = await asyncpg.connect(url.rpartition("/")[0] + "/postgres")
    left = await connection.fetch(
        "SELECT quote_ident(datname) FROM pg_database"
        " WHERE datname NOT IN ('app', 'postgres') AND NOT datistemplate"
    )
    for (name,) in left:
        await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await connection.close()
