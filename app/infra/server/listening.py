"""Whether this machine can listen on an address, asked before a server tries it."""

import socket


def error_of_listening(host: str, port: int) -> OSError | None:
    """Return what keeps a server from listening there, if anything does."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as candidate:
            # The server sets this too: old connections in TIME_WAIT do not keep it from listening.
            candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            candidate.bind((host, port))
    except OSError as error:
        return error
    return None
