"""Parses the URLs of PostgreSQL, Valkey and mail servers, and converts them for the drivers.

`urlsplit` and the drivers guess when a password contains an unescaped `@` or `/`, and then connect
to another host. Here such a URL is an error.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, quote, unquote, urlencode

from app.infra.settings_base.certificates import load_certificates, postgresql_tls

SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
POSTGRESQL_SCHEMES = ("postgres", "postgresql", "postgresql+asyncpg")
POSTGRESQL_PARTS = ("user", "password", "host", "port", "dbname")
POSTGRESQL_PARAMETERS = (
    *("sslmode", "sslrootcert", "sslcert", "sslkey"),
    *("channel_binding", "options"),
)
POSTGRESQL_EXAMPLE = "postgresql://user:password@host:5432/name"
VALKEY_SCHEMES = {"redis": "redis", "rediss": "rediss", "valkey": "redis", "valkeys": "rediss"}
VALKEY_PARAMETERS = {
    "ssl_cert_reqs": r"none|optional|required",
    "ssl_check_hostname": r"true|false",
    "ssl_ca_certs": r".+",
    "ssl_certfile": r".+",
    "ssl_keyfile": r".+",
}
VALKEY_EXAMPLE = "redis://:password@host:6379/0"
SMTP_EXAMPLE = "smtp://user:password@host:587"
SMTP_PORT, SUBMISSION_PORT, SMTPS_PORT = 25, 587, 465
# Parameters of other clients that are settings here.
PARAMETERS_AS_SETTINGS = {
    "connect_timeout": "DATABASE_CONNECT_TIMEOUT_SECONDS",
    "connection_limit": "DATABASE_POOL_SIZE",
    "max_connections": "VALKEY_MAX_CONNECTIONS",
    "pgbouncer": "DATABASE_POOLER",
    "pool_size": "DATABASE_POOL_SIZE",
    "pool_timeout": "DATABASE_POOL_TIMEOUT_SECONDS",
    "socket_connect_timeout": "VALKEY_TIMEOUT_SECONDS",
    "socket_timeout": "VALKEY_TIMEOUT_SECONDS",
    "statement_timeout": "DATABASE_STATEMENT_TIMEOUT_SECONDS",
    "timeout": "MAIL_TIMEOUT_SECONDS",
}

URL = re.compile(r"([a-z+]+)://([^/?]*)(?:/([^?]*))?(?:\?(.*))?", re.IGNORECASE)
AUTHORITY = re.compile(
    r"(?:([^@:]*)(?::([^@]*))?@)?(\[[0-9a-f:.]+\]|[^@:\[\]]*)(?::(\d*))?", re.IGNORECASE
)
UNESCAPED = re.compile(r"%(?![0-9a-f]{2})|%00|[\s\0#\\]", re.IGNORECASE)
HOST = re.compile(r"[\w.-]+|[0-9a-f:.]+|/[^\0]+", re.IGNORECASE)
ESCAPES = "write @ as %40, : as %3A, / as %2F, ? as %3F, # as %23, % as %25"


class Parts(NamedTuple):
    """The unescaped parts of a URL. A missing part is an empty string."""

    scheme: str
    user: str
    password: str
    host: str
    port: str
    path: str
    query: dict[str, str]


def postgresql_url(text: str) -> str:
    """Return a common PostgreSQL URL in the form of SQLAlchemy, or raise `ValueError`."""
    parts = _split(text, POSTGRESQL_EXAMPLE)
    if parts.scheme not in POSTGRESQL_SCHEMES:
        raise ValueError("not for PostgreSQL: it begins with postgresql://")
    query = {"sslmode" if name == "ssl" else name: value for name, value in parts.query.items()}
    written = zip(POSTGRESQL_PARTS, parts[1:6], strict=True)
    user, password, host, port, name = (query.pop(part, value) for part, value in written)
    _check_parameters(query, POSTGRESQL_PARAMETERS)
    _check_address(host, port)
    if not user or not name:
        raise ValueError(f"it names a user, a host and a database: {POSTGRESQL_EXAMPLE}")
    _replace_tls_parameters(query)
    if host.startswith("/"):
        query["host"], host = host, ""
    login = f"{quote(user, '')}:{quote(password, '')}" if password else quote(user, "")
    host = f"[{host}]" if ":" in host else host
    url = f"postgresql+asyncpg://{login}@{host}{port and f':{port}'}/{quote(name, '')}"
    return f"{url}?{urlencode(query)}" if query else url


def asyncpg_arguments(url: str) -> dict[str, Any]:
    """Return the arguments of `asyncpg.connect` for a URL that `postgresql_url` has returned.

    An argument that is missing here would be read from the environment by asyncpg.
    """
    parts = _split(url, POSTGRESQL_EXAMPLE)
    options = parts.query.get("options")
    return {
        "host": parts.query.get("host", parts.host),
        "port": int(parts.port or 5432),
        "user": parts.user,
        "password": parts.password or None,
        "database": parts.path,
        "ssl": postgresql_tls(parts.query),
        "direct_tls": False,
        "target_session_attrs": "any",
        "gsslib": "gssapi",
        "server_settings": {"options": options} if options else {},
    }


def valkey_url(text: str) -> str:
    """Return a Valkey URL with the scheme that redis-py knows, or raise `ValueError`."""
    parts = _split(text, VALKEY_EXAMPLE)
    scheme = VALKEY_SCHEMES.get(parts.scheme)
    if scheme is None:
        raise ValueError(f"not a Valkey URL: {VALKEY_EXAMPLE}, or rediss:// for TLS")
    _check_address(parts.host, parts.port)
    if not re.fullmatch(r"\d{0,5}", parts.path):
        raise ValueError(f"it ends with the number of a database: {VALKEY_EXAMPLE}")
    _check_parameters(parts.query, VALKEY_PARAMETERS)
    for name, value in parts.query.items():
        if not re.fullmatch(VALKEY_PARAMETERS[name], value):
            raise ValueError(f"{name} is one of {VALKEY_PARAMETERS[name].replace('|', ', ')}")
    if parts.query and scheme != "rediss":
        raise ValueError("what begins with ssl_ is for TLS: the URL begins with rediss://")
    load_certificates(*map(parts.query.get, ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")))
    return f"{scheme}://{text.strip().partition('://')[2]}"


class SmtpServer(NamedTuple):
    """A mail server. `start_tls` is None if STARTTLS is used when the server offers it."""

    host: str
    port: int
    user: str | None
    password: str | None
    use_tls: bool
    start_tls: bool | None


def smtp_server(text: str) -> SmtpServer:
    """Parse the URL of a mail server, or raise `ValueError`.

    A password is sent over TLS only, unless the URL ends with `?tls=none`.
    """
    parts = _split(text, SMTP_EXAMPLE)
    if parts.scheme not in ("smtp", "smtps"):
        raise ValueError(f"not a mail server: {SMTP_EXAMPLE}, or smtps:// for TLS from the start")
    _check_address(parts.host, parts.port)
    _check_parameters(parts.query, ("tls",))
    use_tls, tls = parts.scheme == "smtps", parts.query.get("tls")
    if tls not in (None, "require", "none") or (use_tls and tls == "none"):
        raise ValueError("tls is require or none, and smtps:// requires it")
    if parts.path or parts.host.startswith("/") or bool(parts.user) != bool(parts.password):
        raise ValueError(f"it names a host, and a user with a password or neither: {SMTP_EXAMPLE}")
    default = SMTPS_PORT if use_tls else SUBMISSION_PORT if parts.user else SMTP_PORT
    needs_tls = tls == "require" or (bool(parts.user) and tls != "none")
    start_tls = False if use_tls or tls == "none" else needs_tls or None
    port = int(parts.port or default)
    user, password = parts.user or None, parts.password or None
    return SmtpServer(parts.host, port, user, password, use_tls, start_tls)


def _split(text: str, example: str) -> Parts:
    """Split a URL into its parts. Raise `ValueError` if it is ambiguous."""
    text = text.strip()
    found = URL.fullmatch(text)
    authority = found and AUTHORITY.fullmatch(found[2])
    path = (found and found[3]) or ""
    if UNESCAPED.search(text) or (found and not authority) or "@" in path or "/" in path:
        raise ValueError(f"not a URL: {example}. In a user or a password {ESCAPES}")
    if not found or not authority:
        raise ValueError(f"not a URL: {example}")
    try:
        pairs = parse_qsl(found[4] or "", keep_blank_values=True, strict_parsing=bool(found[4]))
    except ValueError:
        pairs = [("", "")]
    query = dict(pairs)
    if len(query) < len(pairs) or not all(query) or not all(query.values()):
        raise ValueError("after the `?` it takes each name once, with a value: name=value")
    user, password, host, port = (unquote(part or "") for part in authority.groups())
    host = host.removeprefix("[").removesuffix("]")
    return Parts(found[1].lower(), user, password, host, port, unquote(path), query)


def _check_parameters(query: Mapping[str, str], taken: Collection[str]) -> None:
    for name in query.keys() - set(taken):
        if setting := PARAMETERS_AS_SETTINGS.get(name):
            raise ValueError(f"{name} is a setting here: remove it, and set {setting}")
        # Show only names of letters. Anything else may be the end of a password.
        shown = f"{name}: " if re.fullmatch(r"[a-z_]+", name) else ""
        raise ValueError(f"{shown}after the `?` it takes these alone: {', '.join(taken)}")


def _check_address(host: str, port: str) -> None:
    is_port = re.fullmatch(r"\d{0,5}", port) and 1 <= int(port or 1) <= 65_535
    if not HOST.fullmatch(host) or not is_port:
        raise ValueError("it names one host, and a port between 1 and 65535")


def _replace_tls_parameters(query: dict[str, str]) -> None:
    """Replace sslmode and channel_binding by the one parameter `ssl`.

    asyncpg does not support channel binding. A URL that requires it gets a TLS connection.
    """
    binding = query.pop("channel_binding", "prefer")
    if binding not in ("disable", "prefer", "require"):
        raise ValueError("channel_binding is one of disable, prefer, require")
    # As in libpq, a root certificate implies that the certificate of the server is checked.
    needs_tls = binding == "require" or "sslcert" in query
    least = "verify-ca" if "sslrootcert" in query else "require" if needs_tls else ""
    mode = query.pop("sslmode", least)
    if mode and mode not in SSL_MODES:
        raise ValueError(f"sslmode is one of {', '.join(SSL_MODES)}")
    if binding == "require" and SSL_MODES.index(mode) < SSL_MODES.index("require"):
        raise ValueError("channel_binding=require needs sslmode=require, or verify-full")
    if mode:
        query["ssl"] = mode
    postgresql_tls(query)
