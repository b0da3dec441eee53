"""Where the service listens: the configured address, or the next free port when that is taken."""

import errno
from dataclasses import dataclass

from app.infra.server.settings import ServerSettings
from dev.terminal import CommandError, say
from graceful_gunicorn import bind_error

_PORTS_TRIED = 100
# What stands for all addresses of this machine, and where one of them answers.
_ALL_ADDRESSES = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - only compared


@dataclass(frozen=True)
class Address:
    """Where the service listens, and how to reach it from here."""

    host: str
    port: int

    @property
    def reachable_host(self) -> str:
        """A host to connect to, which "all addresses" is not."""
        return _ALL_ADDRESSES.get(self.host, self.host)

    @property
    def url(self) -> str:
        """What a browser on this machine opens."""
        host = self.reachable_host
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"


def choose_address(settings: ServerSettings) -> Address:
    """Take SERVER_HOST and SERVER_PORT, or the first free port above."""
    host, wanted = settings.host, settings.port
    if wanted == 0:
        raise CommandError("SERVER_PORT is 0: set it to a number from 1 to 65535.")
    for port in range(wanted, min(wanted + _PORTS_TRIED, 65536)):
        if _is_free(host, port):
            if port != wanted:
                say(f"Port {wanted} is taken: using {port}")
            return Address(host, port)
    raise CommandError(f"No port from {wanted} upwards is free: set SERVER_PORT to another.")


def _is_free(host: str, port: int) -> bool:
    error = bind_error(host, port)
    if error and error.errno != errno.EADDRINUSE:
        raise CommandError(
            f"Cannot listen on {host}, port {port} ({error.strerror}): "
            "set SERVER_HOST or SERVER_PORT to another."
        )
    return error is None
