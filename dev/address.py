"""Chooses the address on which the service listens."""

import errno
from dataclasses import dataclass

from app.infra.server.settings import ServerSettings
from dev.terminal import CommandError, say
from graceful_gunicorn import bind_error

_PORTS_TRIED = 100
# The hosts that mean all addresses of this machine, each with one that a client can connect to.
_ALL_ADDRESSES = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - only compared


@dataclass(frozen=True)
class Address:
    host: str
    port: int

    @property
    def reachable_host(self) -> str:
        """A host that a client on this machine can connect to."""
        return _ALL_ADDRESSES.get(self.host, self.host)

    @property
    def url(self) -> str:
        host = self.reachable_host
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"


def choose_address(settings: ServerSettings) -> Address:
    """Return SERVER_HOST with SERVER_PORT, or with the next free port if that one is in use."""
    host, wanted = settings.host, settings.port
    if wanted == 0:
        raise CommandError("SERVER_PORT is 0. Set it to a number from 1 to 65535.")
    for port in range(wanted, min(wanted + _PORTS_TRIED, 65536)):
        if _is_free(host, port):
            if port != wanted:
                say(f"Port {wanted} is in use; using port {port}")
            return Address(host, port)
    raise CommandError(
        f"The ports from {wanted} to {port} are all in use. Set SERVER_PORT to another port."
    )


def _is_free(host: str, port: int) -> bool:
    error = bind_error(host, port)
    if error and error.errno != errno.EADDRINUSE:
        raise CommandError(
            f"Cannot listen on {host}, port {port} ({error.strerror}). To use another address, "
            "set SERVER_HOST or SERVER_PORT."
        )
    return error is None
