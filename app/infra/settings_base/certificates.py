"""TLS contexts for connections to PostgreSQL, from the parameters of its URL."""

import ssl
from collections.abc import Mapping


def postgresql_tls(query: Mapping[str, str]) -> ssl.SSLContext | str:
    """Return the `ssl` argument of asyncpg: a mode that needs no certificate, or a context."""
    mode = query.get("ssl", "prefer")
    if mode in ("disable", "allow", "prefer"):
        return mode
    root = query.get("sslrootcert")
    uses_system_roots = root == "system" or (root is None and mode != "require")
    context = load_certificates(
        None if uses_system_roots else root, query.get("sslcert"), query.get("sslkey")
    )
    if uses_system_roots:
        context.load_default_certs()
    context.check_hostname = mode == "verify-full"
    if mode == "require" and root is None:
        context.verify_mode = ssl.CERT_NONE
    return context


def load_certificates(root: str | None, own: str | None, key: str | None) -> ssl.SSLContext:
    """Read certificate files, or raise `ValueError` if one cannot be read."""
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
