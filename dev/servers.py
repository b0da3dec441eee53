"""Embedded PostgreSQL and Valkey: real servers out of wheels, no container and no root needed.

They belong to a keeper process (keeper.py), which ends them when whoever started it closes its
standard input or dies, by SIGKILL too.
"""

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from dev.terminal import CommandError
from dev.terminal import say as say_line

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Servers:
    """Where they answer, passwords included."""

    database_url: str
    valkey_url: str


class FolderInUse(CommandError):
    """A keeper owns the folder. `servers` is None while they are starting."""

    def __init__(self, servers: Servers | None) -> None:
        super().__init__(
            "The servers of this clone are in use by another command, `make run` or `make dev` "
            "perhaps: end that one first."
        )
        self.servers = servers


@contextmanager
def embedded_servers(
    folder: Path, *, durable: bool = True, say: Callable[[str], None] = say_line
) -> Iterator[Servers]:
    """Provide servers with their data in `folder`: those that run there already, else new ones.

    New ones end with this context. `durable=False` is for data that nobody misses: it is faster,
    not safe in a crash, and kept only where PostgreSQL can live in `folder` (installation.py).
    """
    folder = folder.resolve()
    running = running_servers(folder)
    if running is not None:
        yield running
        return
    with _keeper(folder, durable) as keeper:
        yield _servers_of(keeper, say)


def running_servers(folder: Path) -> Servers | None:
    """Find the servers that are ready in `folder`, whoever started them."""
    if not folder.exists():
        return None
    try:
        with claim(folder, shared=True):
            return None
    except FolderInUse as use:
        return use.servers


@contextmanager
def claim(folder: Path, *, shared: bool = False) -> Iterator[IO[str]]:
    """Hold the file in which the owner of `folder` says where its servers are."""
    descriptor = os.open(folder / "servers.json", os.O_RDWR | os.O_CREAT, 0o600)
    with os.fdopen(descriptor, "r+", encoding="utf-8") as state:
        try:
            fcntl.flock(state, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            content = state.read()
            raise FolderInUse(Servers(**json.loads(content)) if content else None) from None
        if not shared:
            state.truncate(0)  # a killed owner could not
        try:
            yield state
        finally:
            if not shared:
                state.truncate(0)


@contextmanager
def _keeper(folder: Path, durable: bool) -> Iterator[subprocess.Popen[str]]:
    options = [] if durable else ["--volatile"]
    keeper = subprocess.Popen(
        [sys.executable, "-m", "dev.keeper", str(folder), *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        start_new_session=True,  # Ctrl-C must not reach the servers before the service has drained
        encoding="utf-8",
    )
    assert keeper.stdin is not None
    assert keeper.stdout is not None
    try:
        yield keeper
    finally:
        keeper.stdin.close()
        keeper.wait()
        keeper.stdout.close()


def _servers_of(keeper: subprocess.Popen[str], say: Callable[[str], None]) -> Servers:
    """Follow the keeper's report, one JSON object a line, until the servers are ready."""
    assert keeper.stdout is not None
    for line in keeper.stdout:
        report = json.loads(line)
        if "servers" in report:
            return Servers(**report["servers"])
        if "error" in report:
            raise CommandError(report["error"])
        say(report["progress"])
    raise CommandError("The embedded servers ended while starting: run the same command again.")
