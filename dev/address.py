"""Where the service listens: the configured address, or the next free port when that is taken."""

import errno
import socket
from dataclasses import dataclass

from dev.backing import configured
from dev.terminal import CommandError, say

_PORTS_TRIED = 100


@dataclass(frozen=True)
class Address:
    """Where the service listens, and how to reach it from here."""

    host: str
    port: int

    @property
    def reachable_host(self) -> str:
        """A host to connect to, which "all addresses" is not."""
        return "127.0.0.1" if self.host == "0.0.0.0" else self.host  # noqa: S104 - only compared

    @property
    def url(self) -> str:
        """What a browser on this machine opens."""
        return f"http://{self.reachable_host}:{self.port}"


def choose_address() -> Address:
    """Take SERVER_HOST and SERVER_PORT, or the first free port above."""
    host, wanted = configured("SERVER_HOST") or "127.0.0.1", _configured_port()
    for port in range(wanted, min(wanted + _PORTS_TRIED, 65536)):
        if _is_free(host, port):
            if port != wanted:
                say(f"Port {wanted} is taken: using {port}")
            return Address(host, port)
    raise CommandError(f"No port from {wanted} upwards is free: set SERVER_PORT to another.")


def _configured_port() -> int:
    text = configured("SERVER_PORT") or "8000"
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise CommandError(f"SERVER_PORT is {text!r}: set it to a number from 1 to 65535.")
    return int(text)


def _is_free(host: str, port: int) -> bool:
    with socket.socket() as candidate:
        # As the server does it: what still lingers of an earlier run's connections is no obstacle.
        candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            candidate.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            raise CommandError(
                f"Cannot listen on {host}:{port} ({error.strerror}): set SERVER_HOST, SERVER_PORT."
            ) from error
    return True
