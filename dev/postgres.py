"""The embedded PostgreSQL: made at the first start, TCP on the loopback only, password always."""

import secrets
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

from dev.identity import Identity, spawn
from dev.installation import Installation
from dev.server_process import Program, Server, start_on_free_port
from dev.terminal import CommandError

SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "100",
    "shared_buffers": "128MB",
}
# For data that nobody misses after a crash, those of tests.
VOLATILE_SETTINGS = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


def postgres_program(folder: Path, identity: Identity) -> Program:
    """Describe the server, which may run already."""
    # SIGINT is the fast shutdown: it ends the sessions and writes a checkpoint.
    return Program("PostgreSQL", "postgres", folder, signal.SIGINT, identity)


def start_postgres(
    folder: Path, installation: Installation, *, durable: bool, say: Callable[[str], None]
) -> tuple[Server, str]:
    """Start the server, and return it with the URL of its database `app`."""
    data = installation.home / "postgres"
    if not data.exists():
        say(f"Creating a PostgreSQL database in {data}")
        _initialise(installation, data)
    # The lock says that no server runs. Left by a crash, this file would keep the next one from
    # starting once another process has been given the old one's id.
    (data / "postmaster.pid").unlink(missing_ok=True)
    base = [installation.program("postgres"), "-D", str(data), *options(durable)]
    program = postgres_program(folder, installation.identity)
    server = start_on_free_port(program, lambda port: [*base, "-p", str(port)], is_ready_in(data))
    password = _password_path(installation).read_text(encoding="utf-8")
    return server, f"postgresql://app:{password}@127.0.0.1:{server.port}/app"


def options(durable: bool) -> list[str]:
    """Return the settings as arguments."""
    settings = SETTINGS if durable else SETTINGS | VOLATILE_SETTINGS
    return [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]


def is_ready_in(data: Path) -> Callable[[Server], bool]:
    """Tell by its own file, which names its process id: no other server can be taken for ours."""

    def is_ready(server: Server) -> bool:
        try:
            lines = (data / "postmaster.pid").read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return False
        process_id, state = str(server.process.pid), [line.strip() for line in lines[7:8]]
        return lines[:1] == [process_id] and state == ["ready"]

    return is_ready


def _initialise(installation: Installation, data: Path) -> None:
    """Made under another name, then renamed: what is called `data` is complete."""
    unfinished = data.with_name("postgres.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(mode=0o700)
    password = _password_path(installation)
    password.unlink(missing_ok=True)
    password.touch(mode=0o600)
    password.write_text(secrets.token_hex(24), encoding="utf-8")
    for path in (unfinished, password):
        installation.identity.hand_over(path)
    _run(installation, _initdb(unfinished, password))
    _run(installation, _single_user(unfinished), "CREATE DATABASE app\n")
    unfinished.rename(data)


def _password_path(installation: Installation) -> Path:
    return installation.home / "postgres.password"


def _initdb(data: Path, password: Path) -> list[str]:
    return [
        *("initdb", f"--pgdata={data}", "--username=app", "--no-instructions"),
        *("--auth=scram-sha-256", f"--pwfile={password}"),
        # Text is sorted and folded the same way on every machine, whatever locales it has.
        *("--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
    ]


def _single_user(data: Path) -> list[str]:
    return ["postgres", "--single", "-c", "exit_on_error=on", "-D", str(data), "template1"]


def _run(installation: Installation, command: list[str], statement: str = "") -> None:
    command = [installation.program(command[0]), *command[1:]]
    process = spawn(installation.identity, command, output=subprocess.PIPE)
    output = process.communicate(statement.encode())[0].decode(errors="replace")
    if process.returncode:
        raise CommandError(f"{output}The database could not be created: the lines above say why.")
