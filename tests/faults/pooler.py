"""PgBouncer in front of the test's own PostgreSQL, with the configuration in `deploy/`."""

import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from dev.postgres import unprivileged
from dev.server_process import spawn
from dev.servers import ROOT
from tests.faults.load import free_port
from tests.faults.postgres import Backend

PGBOUNCER = shutil.which("pgbouncer", path="/usr/sbin:/usr/bin:/usr/local/bin:/opt/homebrew/bin")
# A control sends these when it connects. It must not fail because of that.
IGNORED = (
    "statement_timeout,lock_timeout,idle_in_transaction_session_timeout,"
    "client_connection_check_interval"
)
CONFIGURATION = """\
%include {deployed}
ignore_startup_parameters = {ignored}
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {folder}/users.txt

[databases]
* = host=127.0.0.1 port={server_port}
"""


@contextmanager
def open_pooler(backend: Backend, folder: Path) -> Iterator[Backend]:
    """Start PgBouncer, and return the backend with its address. Skip if it is missing."""
    if PGBOUNCER is None:
        pytest.skip("pgbouncer is not installed")
    url, port = urlsplit(backend.database_url), free_port()
    folder.mkdir(mode=0o755)
    (folder / "users.txt").write_text(f'"{url.username}" "{url.password}"\n', encoding="utf-8")
    (folder / "pgbouncer.ini").write_text(
        CONFIGURATION.format(
            deployed=ROOT / "deploy/pgbouncer/pgbouncer.ini",
            ignored=IGNORED,
            folder=folder,
            port=port,
            server_port=url.port,
        ),
        encoding="utf-8",
    )
    with (folder / "log").open("wb") as log:
        command = [*unprivileged(), PGBOUNCER, str(folder / "pgbouncer.ini")]
        process = spawn(command, output=log)
    try:
        netloc = f"{url.username}:{url.password}@127.0.0.1:{port}"
        yield replace(backend, database_url=url._replace(netloc=netloc).geturl())
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate()
