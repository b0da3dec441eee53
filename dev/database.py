"""Migrates and fills the database that a command uses."""

import asyncio
import subprocess
import sys
from contextlib import suppress

from dev.demo_data import DatabaseNotEmpty, load, show_progress
from dev.servers import ROOT, Servers
from dev.terminal import CommandError, StatusLine, say

DEMO_SIZE = 100_000


def upgrade(servers: Servers) -> None:
    """Bring the schema up to date."""
    _alembic(servers, "upgrade", "head")


def write_migration(servers: Servers, message: str) -> None:
    """Write the migration that brings the schema to the state of the models."""
    upgrade(servers)
    say(_alembic(servers, "revision", "--autogenerate", "-m", message).strip())


def seed(servers: Servers, size: int) -> None:
    try:
        asyncio.run(load(servers.database_url, size))
    except DatabaseNotEmpty as error:
        cure = "Run `make clean-data`" if servers.embedded_database else "Name another database"
        raise CommandError(f"{error} {cure}, then run the command again.") from error


def seed_if_empty(servers: Servers) -> None:
    """Fill the embedded database when it is new. A configured database is never filled.

    The service may be running meanwhile, so the cache is emptied: it may have empty lists.
    """
    if not servers.embedded_database:
        return
    progress = show_progress(StatusLine(shared=True))
    with suppress(DatabaseNotEmpty):
        asyncio.run(load(servers.database_url, DEMO_SIZE, progress=progress))
        command = [sys.executable, "-m", "app.flush_cache"]
        subprocess.run(command, cwd=ROOT, env=servers.environment, capture_output=True, check=False)


def _alembic(servers: Servers, *arguments: str) -> str:
    result = subprocess.run(
        [sys.executable, "-m", "alembic", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=ROOT,
        env=servers.environment,
        check=False,
        encoding="utf-8",
        errors="replace",
    )
    if result.returncode:
        print(*result.stdout.splitlines()[-20:], sep="\n", file=sys.stderr)
        if "Can't locate revision" in result.stdout:
            raise CommandError(
                "The database has a migration that this code does not have, perhaps from another "
                "branch. Go back to that branch, or start with an empty database: "
                "make clean-data"
            )
        raise CommandError("Alembic failed. Correct what it says above, then try again.")
    return result.stdout
