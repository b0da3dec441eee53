"""The database and the cache that a command works on.

They are embedded ones, unless `DATABASE_URL` or `VALKEY_URL`, in the environment or in .env, names
another. With both set no embedded server starts.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from app.infra.settings_base.sources import read_dotenv
from app.infra.settings_base.urls import postgresql_url
from dev.servers import ROOT, FolderInUse, embedded_servers, running_servers
from dev.terminal import CommandError

DATA = ROOT / ".data"


@dataclass(frozen=True)
class Backing:
    """Where database and cache are; the embedded database is ours to fill and to clean."""

    database_url: str
    valkey_url: str
    embedded_database: bool

    @property
    def environment(self) -> dict[str, str]:
        """For child processes, which read their settings from it."""
        return os.environ | {"DATABASE_URL": self.database_url, "VALKEY_URL": self.valkey_url}


@contextmanager
def open_backing(*, exclusive: bool = False) -> Iterator[Backing]:
    """Start the embedded servers if needed; `exclusive` refuses those of another command."""
    database_url, valkey_url = configured("DATABASE_URL"), configured("VALKEY_URL")
    if database_url:
        try:
            postgresql_url(database_url)
        except ValueError as error:
            raise CommandError(f"DATABASE_URL: {error}.") from None
    if database_url and valkey_url:
        yield Backing(database_url, valkey_url, embedded_database=False)
        return
    if exclusive and running_servers(DATA):
        raise FolderInUse(None)
    with embedded_servers(DATA) as servers:
        yield Backing(
            database_url or servers.database_url,
            valkey_url or servers.valkey_url,
            embedded_database=not database_url,
        )


def configured(name: str) -> str | None:
    """Read a setting from the environment, else from .env; empty counts as not set."""
    return os.environ.get(name, "").strip() or read_dotenv(ROOT / ".env").get(name)
