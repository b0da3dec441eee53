"""Checks whether a server can bind to an address, before a server tries it."""

import socket


def bind_error(host: str, port: int) -> OSError | None:
    """Return the error that a server would get when it binds to this address, or None."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as candidate:
            # The server sets this option too. Without it, connections in TIME_WAIT would prevent
            # the bind.
            candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            candidate.bind((host, port))
    except OSError as error:
        return error
    return None
