"""The schema and the demo data of the database that a command works on."""

import asyncio
import subprocess
import sys
from contextlib import suppress

from dev.backing import Backing
from dev.demo_data import DatabaseNotEmpty, load
from dev.servers import ROOT
from dev.terminal import CommandError, say

DEMO_POSTS = 100_000


def upgrade(backing: Backing) -> None:
    """Bring the schema up to date."""
    _alembic(backing, "upgrade", "head")


def write_migration(backing: Backing, message: str) -> None:
    """Write the migration from the schema as it is to the models as they are."""
    upgrade(backing)
    say(_alembic(backing, "revision", "--autogenerate", "-m", message).strip())


def flush_cache(backing: Backing) -> None:
    """Empty the cache, in the memory of running workers too."""
    command = [sys.executable, "-m", "app.flush_cache"]
    result = subprocess.run(command, cwd=ROOT, env=backing.environment, check=False)
    if result.returncode:
        raise CommandError("The cache was not emptied: correct what is said above.")


def seed(backing: Backing, posts: int) -> None:
    """Fill the empty database with demo data; it is stored whole or not at all."""
    try:
        asyncio.run(load(backing.database_url, posts))
    except DatabaseNotEmpty as error:
        cure = "run `make clean-data`" if backing.embedded_database else "give it another database"
        raise CommandError(f"{error} To start afresh, {cure} first.") from error


def seed_if_empty(backing: Backing) -> None:
    """Fill the embedded database at its first start; never somebody's own."""
    if backing.embedded_database:
        with suppress(DatabaseNotEmpty):
            asyncio.run(load(backing.database_url, DEMO_POSTS))


def _alembic(backing: Backing, *arguments: str) -> str:
    """Run quietly: what it prints is of interest when it fails."""
    result = subprocess.run(
        [sys.executable, "-m", "alembic", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=ROOT,
        env=backing.environment,
        check=False,
        encoding="utf-8",
        errors="replace",
    )
    if result.returncode:
        raise _failure(result.stdout)
    return result.stdout


def _failure(output: str) -> CommandError:
    print(*output.splitlines()[-20:], sep="\n", file=sys.stderr)
    if "Can't locate revision" in output:
        return CommandError(
            "The database was migrated by other code, of another branch perhaps: go back to that, "
            "or begin anew with `make clean-data`."
        )
    return CommandError("Alembic failed: correct what is said above, then run the command again.")
