"""URLs of servers, as people write them and as the drivers take them."""

from urllib.parse import urlsplit

from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")


def postgresql_url(text: str) -> str:
    """Accept any common PostgreSQL URL, and name the driver that we use. Else `ValueError`."""
    try:
        parsed = make_url(text)
    except (ArgumentError, ValueError):
        raise ValueError("not a URL: postgresql://user:password@host:5432/name") from None
    if parsed.drivername not in ("postgres", "postgresql", "postgresql+asyncpg"):
        raise ValueError("not for PostgreSQL: it begins with postgresql://")
    query = {"ssl" if key == "sslmode" else key: value for key, value in parsed.query.items()}
    if query.keys() - {"ssl"} or query.get("ssl", "prefer") not in SSL_MODES:
        raise ValueError(f"after the `?` it takes sslmode alone: {', '.join(SSL_MODES)}")
    _check_address(parsed.host, parsed.port)
    parsed = parsed.set(drivername="postgresql+asyncpg", query=query)
    return parsed.render_as_string(hide_password=False)


def valkey_url(text: str) -> str:
    """Accept valkey:// and valkeys://, which the client does not know, as redis://."""
    scheme, _, rest = text.partition("://")
    scheme = scheme.replace("valkey", "redis")
    try:
        parsed = urlsplit(f"{scheme}://{rest}")
        _check_address(parsed.hostname, parsed.port)
    except ValueError:
        raise ValueError("not a URL: redis://:password@host:6379/0") from None
    if scheme not in ("redis", "rediss") or parsed.query:
        raise ValueError("not a Valkey URL: redis://:password@host:6379/0")
    return f"{scheme}://{rest}"


def _check_address(host: str | None, port: int | None) -> None:
    if not host or "," in host or not 1 <= (port or 1) <= 65_535:
        raise ValueError("it names one host, and a port between 1 and 65535")
