"""A copy of the repository with servers of its own, in which the tests of the mutants run."""

import asyncio
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg
from redis import Redis

from dev.database import upgrade
from dev.mutate.forks import Forks, open_forks
from dev.mutate.mutants import Mutant
from dev.servers import ROOT, Servers, embedded_servers
from dev.terminal import CommandError
from dev.working_tree import git

# Assertions are not rewritten: only the failure itself is of interest.
_OPTIONS = ("-q", "--tb=no", "--assert=plain", "-p", "no:cacheprovider")


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
        environment = os.environ | {
            "TEST_DATABASE_URL": servers.database_url,
            "TEST_VALKEY_URL": servers.valkey_url,
            "TEST_RATE_LIMITS_URL": _limits_url(servers),
        }
        with open_forks(folder, environment) as forks:
            yield Workplace(folder, servers, forks)


@dataclass(frozen=True)
class Workplace:
    folder: Path
    _servers: Servers
    _forks: Forks

    def run(self, *arguments: str, seconds: float | None = None) -> tuple[int | None, str]:
        """Return the exit code of pytest, None if it took too long, and what it printed."""
        asyncio.run(_drop_databases(self._servers.database_url))
        for url in (self._servers.valkey_url, _limits_url(self._servers)):
            with Redis.from_url(url) as valkey:
                valkey.flushall()
        with tempfile.TemporaryDirectory() as data:
            output = Path(data) / "output"
            output.touch()
            options = (*_OPTIONS, f"--basetemp={data}/tests")
            code = self._forks.run([*options, *arguments], str(output), seconds)
            return code, output.read_text(encoding="utf-8", errors="replace")

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


def _limits_url(servers: Servers) -> str:
    return servers.rate_limits_url or servers.valkey_url


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
