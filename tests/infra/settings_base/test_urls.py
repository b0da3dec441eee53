"""URLs: every common form works, or is refused with a hint."""

import re
import ssl
from pathlib import Path

import pytest

from app.infra.settings_base.urls import (
    asyncpg_arguments,
    postgresql_url,
    smtp_server,
    valkey_url,
)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("postgres://u:p@h/d", ("u", "p", "h", 5432, "d")),
        ("postgresql://u:p%40%3A%2F%23%25@h:1/d", ("u", "p@:/#%", "h", 1, "d")),
        ("postgresql://u:p:q@h/d", ("u", "p:q", "h", 5432, "d")),
        ("postgresql://u@[::1]:2/d", ("u", None, "::1", 2, "d")),
        ("postgresql://a@%2Frun%2Fpostgresql/db", ("a", None, "/run/postgresql", 5432, "db")),
        ("postgresql://a:b@/db?host=/cloudsql/p:r:i", ("a", "b", "/cloudsql/p:r:i", 5432, "db")),
        ("postgresql:///db?host=/s&user=a&password=b%26&port=3", ("a", "b&", "/s", 3, "db")),
        (" postgresql://u:p@h/d\n", ("u", "p", "h", 5432, "d")),
    ],
)
def test_parts_of_a_postgresql_url_reach_the_driver(
    given: str, expected: tuple[object, ...]
) -> None:
    url = postgresql_url(given)
    assert postgresql_url(url) == url
    found = asyncpg_arguments(url)
    assert tuple(found[key] for key in ("user", "password", "host", "port", "database")) == expected


@pytest.mark.parametrize(
    ("given", "cure"),
    [
        ("postgresql://a:p@ss@h/db", "write @ as %40"),
        ("postgresql://a:p/ss@h/db", "write @ as %40"),
        ("postgresql://a:5/ss@h/db", "/ as %2F"),
        ("postgresql://a:p#ss@h/db", "# as %23"),
        ("postgresql://a:p?ss@h/db", "write @ as %40"),
        ("postgresql://a:p%ss@h/db", "% as %25"),
        ("postgresql://a@h/d@b", "write @ as %40"),
        ("postgresql://h/db", "a user, a host and a database"),
        ("postgresql://a@h", "a user, a host and a database"),
        ("postgresql://a@/db", "one host"),
        ("postgresql://a@h,i/db", "one host"),
        ("postgresql://a@h:0/db", "between 1 and 65535"),
        ("postgresql://a@h/db?target_session_attrs=any", "target_session_attrs: after the `?`"),
        ("postgresql://a@h/db?pgbouncer=true", "set DATABASE_POOLER"),
        ("postgresql://a@h/db?connect_timeout=3", "set DATABASE_CONNECT_TIMEOUT_SECONDS"),
        ("postgresql://a@h/db?sslmode=on", "sslmode is one of"),
        ("postgresql://a@h/db?sslmode", "name=value"),
        ("postgresql://a@h/db?channel_binding=yes", "channel_binding is one of"),
        ("postgresql://a@h/db?channel_binding=require&sslmode=disable", "needs sslmode=require"),
        ("postgresql://a@h/db?sslrootcert=/nowhere", "No such file"),
        ("postgresql://a@h/db?sslrootcert=/etc/passwd", "not PEM"),
    ],
)
def test_invalid_postgresql_url_is_refused_with_a_hint(given: str, cure: str) -> None:
    with pytest.raises(ValueError, match=re.escape(cure)) as refused:
        postgresql_url(given)
    assert "ss@" not in str(refused.value)


@pytest.mark.parametrize(
    ("parameters", "mode", "checks_name"),
    [
        ("", "prefer", False),
        ("?sslmode=disable", "disable", False),
        ("?sslmode=allow", "allow", False),
        ("?sslmode=require", ssl.CERT_NONE, False),
        ("?sslmode=require&channel_binding=require", ssl.CERT_NONE, False),
        ("?channel_binding=require", ssl.CERT_NONE, False),
        ("?sslmode=verify-ca", ssl.CERT_REQUIRED, False),
        ("?sslmode=verify-full", ssl.CERT_REQUIRED, True),
        ("?sslmode=verify-full&sslrootcert=system", ssl.CERT_REQUIRED, True),
        ("?sslmode=require&sslrootcert={}", ssl.CERT_REQUIRED, False),
        ("?sslrootcert={}", ssl.CERT_REQUIRED, False),
    ],
)
def test_tls_parameters_mean_the_same_as_in_libpq(
    certificate: Path, parameters: str, mode: object, checks_name: bool
) -> None:
    url = postgresql_url(f"postgresql://a@h/db{parameters.format(certificate)}")
    found = asyncpg_arguments(url)["ssl"]
    if isinstance(found, ssl.SSLContext):
        assert (found.verify_mode, found.check_hostname) == (mode, checks_name)
    else:
        assert found == mode


def test_options_reach_the_server() -> None:
    url = postgresql_url("postgresql://a@h/db?options=endpoint%3Dx%20-c%20a%3Db")
    assert asyncpg_arguments(url)["server_settings"] == {"options": "endpoint=x -c a=b"}


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("redis://h", "redis://h"),
        ("valkeys://u:p@h:1/2", "rediss://u:p@h:1/2"),
        ("redis://[::1]:6379/0", "redis://[::1]:6379/0"),
        ("rediss://:p@h:1?ssl_cert_reqs=none", "rediss://:p@h:1?ssl_cert_reqs=none"),
        ("rediss://h/0?ssl_cert_reqs=optional", "rediss://h/0?ssl_cert_reqs=optional"),
        ("rediss://h/?ssl_cert_reqs=required", "rediss://h/?ssl_cert_reqs=required"),
    ],
)
def test_valkey_url_is_converted(given: str, read: str) -> None:
    assert valkey_url(given) == read


@pytest.mark.parametrize(
    ("given", "cure"),
    [
        ("redis://h/abc", "the number of a database"),
        ("redis://h/0/1", "not a URL"),
        ("redis://:p@ss@h/0", "write @ as %40"),
        ("redis://:p#ss@h/0", "# as %23"),
        ("redis://", "one host"),
        ("redis://h:70000", "between 1 and 65535"),
        ("unix:///run/valkey.sock", "not a URL: redis://"),
        ("http://h", "not a Valkey URL"),
        ("redis://h?ssl_cert_reqs=none", "begins with rediss://"),
        ("rediss://h?ssl_cert_reqs=maybe", "none, optional, required"),
        ("rediss://h?ssl_ca_certs=/nowhere", "No such file"),
        ("redis://h?socket_timeout=1", "set VALKEY_TIMEOUT_SECONDS"),
        ("redis://h?protocol=3", "protocol: after the `?`"),
    ],
)
def test_invalid_valkey_url_is_refused_with_a_hint(given: str, cure: str) -> None:
    with pytest.raises(ValueError, match=re.escape(cure)) as refused:
        valkey_url(given)
    assert "ss@" not in str(refused.value)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("smtp://h", ("h", 25, None, None, False, None)),
        ("smtp://h:1025?tls=none", ("h", 1025, None, None, False, False)),
        ("smtp://u:p%40@h", ("u", "p@", "h", 587, False, True)),
        ("smtp://u:p@h:25?tls=none", ("u", "p", "h", 25, False, False)),
        ("smtps://u:p@h", ("u", "p", "h", 465, True, False)),
        ("smtps://u:p@[::1]:1465?tls=require", ("u", "p", "::1", 1465, True, False)),
    ],
)
def test_parts_of_a_mail_server_url(given: str, expected: tuple[object, ...]) -> None:
    found = smtp_server(given)
    who = (found.user, found.password) if found.user else ()
    where = (found.host, found.port)
    parts = (*who, *where) if who else (*where, found.user, found.password)
    assert (*parts, found.use_tls, found.start_tls) == expected


@pytest.mark.parametrize(
    ("given", "cure"),
    [
        ("mail.example.com", "not a URL"),
        ("smtp://u:p@ss@h", "write @ as %40"),
        ("smtp://u:p/ss@h", "/ as %2F"),
        ("smtp://u@h", "a user with a password or neither"),
        ("smtp://h/inbox", "it names a host"),
        ("smtps://h?tls=none", "smtps:// requires it"),
        ("smtp://h?timeout=3", "set MAIL_TIMEOUT_SECONDS"),
    ],
)
def test_invalid_mail_server_url_is_refused_with_a_hint(given: str, cure: str) -> None:
    with pytest.raises(ValueError, match=re.escape(cure)) as refused:
        smtp_server(given)
    assert "ss@" not in str(refused.value)
