"""The PostgreSQL and the Valkeys that a command uses.

DATABASE_URL, VALKEY_URL and RATE_LIMITS_URL, in the environment or in .env, name servers that
exist. For each of them that is not set, an embedded server is used: a real one from a wheel, which
needs neither a container nor root. Its data is in `.data`. If the first two are set, no server is
started, and the rate limits use VALKEY_URL.

Embedded servers run as long as the command that started them. Each is a child of a small process,
supervise.py, that stops it when the command ends, even by SIGKILL. Other commands of the same clone
share them meanwhile.
"""

import fcntl
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO

from app.infra.settings_base.sources import read_dotenv
from app.infra.settings_base.urls import postgresql_url
from dev.postgres import postgres_program, start_postgres
from dev.server_process import Server, stop_leftover
from dev.terminal import CommandError
from dev.terminal import say as say_line
from dev.valkey import NO_EVICTION, rate_limits_program, start_valkey, valkey_program

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / ".data"

# How long to wait for another command that is starting or stopping the servers of this clone.
_TURN_SECONDS = 60.0


@dataclass(frozen=True)
class Servers:
    """Where the servers are, passwords included."""

    database_url: str
    valkey_url: str
    embedded_database: bool = True
    rate_limits_url: str | None = None  # None leaves it to the settings

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a child process, which reads its settings from it."""
        urls = {"DATABASE_URL": self.database_url, "VALKEY_URL": self.valkey_url}
        if self.rate_limits_url is not None:
            urls["RATE_LIMITS_URL"] = self.rate_limits_url
        return os.environ | urls


class FolderInUse(CommandError):
    """Another command runs the servers of the folder. `servers` is None while they start."""

    def __init__(self, servers: Servers | None) -> None:
        super().__init__(
            "Another command of this clone is using its servers, perhaps `make run` or `make dev`. "
            "Stop that command first."
        )
        self.servers = servers


@contextmanager
def open_servers(*, exclusive: bool = False) -> Iterator[Servers]:
    """Yield the configured servers, or embedded ones; `exclusive` refuses to share these."""
    database_url, valkey_url = configured("DATABASE_URL"), configured("VALKEY_URL")
    if database_url:
        try:
            postgresql_url(database_url)
        except ValueError as error:
            raise CommandError(f"DATABASE_URL: {error}.") from None
    if database_url and valkey_url:
        yield Servers(database_url, valkey_url, embedded_database=False)
        return
    if exclusive and running_servers(DATA):
        raise FolderInUse(None)
    with embedded_servers(DATA) as embedded:
        yield Servers(
            database_url or embedded.database_url,
            valkey_url or embedded.valkey_url,
            embedded_database=not database_url,
            rate_limits_url=configured("RATE_LIMITS_URL") or embedded.rate_limits_url,
        )


def configured(name: str) -> str | None:
    """Read a setting from the environment, else from .env; an empty value counts as not set."""
    return os.environ.get(name, "").strip() or read_dotenv(ROOT / ".env").get(name)


@contextmanager
def embedded_servers(
    folder: Path, *, durable: bool = True, say: Callable[[str], None] = say_line
) -> Iterator[Servers]:
    """Yield the servers that run in `folder`; start them for the time of this context if none do.

    `durable=False` is faster, and a crash may damage the data.
    """
    folder = folder.resolve()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with ExitStack() as stack:
        try:
            state = stack.enter_context(_claim_in_turn(folder, say))
        except FolderInUse as use:
            if use.servers is None:
                raise
            servers = use.servers
        else:
            servers = _start(folder, state, stack, durable=durable, say=say)
        yield servers


def running_servers(folder: Path) -> Servers | None:
    """Return the servers that are ready in `folder`, whichever command started them."""
    if not folder.exists():
        return None
    try:
        _claim(folder, fcntl.LOCK_SH).close()
    except FolderInUse as use:
        return use.servers
    return None


def remove_data(folder: Path, say: Callable[[str], None]) -> None:
    with _claim(folder, fcntl.LOCK_EX):
        _stop_leftovers(folder, say)
        shutil.rmtree(folder)


def _claim(folder: Path, operation: int) -> IO[str]:
    """Lock and return the file that says where the servers of the folder are.

    The supervisors of the servers inherit it, so that it is locked until they have ended too. A
    command that finds it locked reads it.
    """
    descriptor = os.open(folder / "servers.json", os.O_RDWR | os.O_CREAT, 0o600)
    state = os.fdopen(descriptor, "r+", encoding="utf-8")
    try:
        fcntl.flock(state, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        with state:
            content = state.read()
        raise FolderInUse(Servers(**json.loads(content)) if content else None) from None
    return state


def _claim_in_turn(folder: Path, say: Callable[[str], None]) -> IO[str]:
    """Claim the folder when no other command is starting or stopping the servers."""
    started, said = time.monotonic(), False
    while True:
        try:
            return _claim(folder, fcntl.LOCK_EX)
        except FolderInUse as use:
            waited = time.monotonic() - started
            if use.servers is not None or waited > _TURN_SECONDS:
                raise
        if waited > 2 and not said:
            say("Waiting for another command that is starting or stopping the servers")
            said = True
        time.sleep(0.05)


def _start(
    folder: Path, state: IO[str], stack: ExitStack, *, durable: bool, say: Callable[[str], None]
) -> Servers:
    """Start all servers, which stop when the stack is closed."""
    state.truncate(0)  # the state that a killed command has left
    _stop_leftovers(folder, say)
    program = replace(postgres_program(folder), claim=state)
    postgres, database_url = start_postgres(program, durable=durable, say=say)
    stack.callback(postgres.stop)
    valkey, valkey_url = start_valkey(replace(valkey_program(folder), claim=state))
    stack.callback(valkey.stop)
    limits, limits_url = start_valkey(
        replace(rate_limits_program(folder), claim=state), NO_EVICTION
    )
    stack.callback(limits.stop)
    servers = Servers(database_url, valkey_url, rate_limits_url=limits_url)
    state.write(json.dumps(asdict(servers)))
    state.flush()
    stack.callback(state.truncate, 0)
    is_stopping = threading.Event()
    for server in (postgres, valkey, limits):
        arguments = (server, is_stopping)
        threading.Thread(target=_warn_of_end, args=arguments, daemon=True).start()
    stack.callback(is_stopping.set)
    return servers


def _stop_leftovers(folder: Path, say: Callable[[str], None]) -> None:
    for program in (postgres_program(folder), valkey_program(folder), rate_limits_program(folder)):
        if stop_leftover(program):
            say(f"Stopped the {program.title} that an earlier command had left running")


def _warn_of_end(server: Server, is_stopping: threading.Event) -> None:
    code = server.process.wait()
    if not is_stopping.is_set():
        print(
            f"{server.program.title} ended by itself (exit code {code}). Its log is "
            f"{server.program.log_path}. Stop this command and start it again.",
            file=sys.stderr,
        )
