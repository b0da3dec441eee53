"""TLS to other servers: which certificates are trusted, and which is our own."""

import ssl
from collections.abc import Mapping


def postgresql_tls(query: Mapping[str, str]) -> ssl.SSLContext | str:
    """Return what asyncpg takes for the mode: up to `prefer`, TLS is an attempt of its own."""
    mode = query.get("ssl", "prefer")
    if mode in ("disable", "allow", "prefer"):
        return mode
    root = query.get("sslrootcert")
    is_system = root == "system" or (root is None and mode != "require")
    context = load_certificates(
        None if is_system else root, query.get("sslcert"), query.get("sslkey")
    )
    if is_system:
        context.load_default_certs()
    context.check_hostname = mode == "verify-full"
    if mode == "require" and root is None:
        context.verify_mode = ssl.CERT_NONE
    return context


def load_certificates(root: str | None, own: str | None, key: str | None) -> ssl.SSLContext:
    """Read the files that a URL names, so that start-up says which of them is no certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if root:
            context.load_verify_locations(cafile=root)
        if own:
            context.load_cert_chain(own, key)
    except OSError as error:
        reason = "not PEM" if isinstance(error, ssl.SSLError) else error.strerror
        raise ValueError(
            f"its certificates cannot be read ({reason}): name PEM files that this user may read"
        ) from None
    return context
