"""Starting the service as it is deployed: it runs, or exits with a sentence that says why not."""

import asyncio
import os
import re
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import httpx2
import pytest
from sqlalchemy import make_url

from app.settings import Settings

PROJECT = Path(__file__).parents[3]
COMMAND = [sys.executable, "-m", "app.serve"]
PATIENCE_SECONDS = 120
C_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}

REFUSED = [
    *[({"WEB_CONCURRENCY": value}, "WEB_CONCURRENCY") for value in ("2.5", "2 # two", "-1", "x")],
    ({"PORT": "tcp"}, "PORT"),
    ({"PORT": "9" * 5_000}, "PORT"),
    ({"SERVER_PORT": "http"}, "SERVER_PORT"),
    ({"SERVER_HOST": "0.0.0.0:80"}, "SERVER_HOST"),
    ({"SERVER_HOST": "203.0.113.1"}, "SERVER_HOST"),
    ({"DATABASE_URL": "postgresql://a:p@ss@h/db"}, "DATABASE_URL"),
    ({"DATABASE_URL": "postgresql://a:p%00@h/db"}, "DATABASE_URL"),
    ({"VALKEY_URL": "redis://h/abc"}, "VALKEY_URL"),
    ({"SECRETS_DIR": "/nowhere"}, "SECRETS_DIR"),
    ({"PROMETHEUS_MULTIPROC_DIR": "/dev/null"}, "PROMETHEUS_MULTIPROC_DIR"),
    ({"ENVIRONMENT": "production", **C_LOCALE}, "AUTH_SECRET"),
]
FILES = [
    (".env", "ENVIRONMENT=production".encode("utf-16"), ".env"),
    (".env", "AUTH_ISSUER=é".encode("latin-1"), ".env"),
    (".env", b"ENVIROMENT=production", "ENVIRONMENT"),
    (".env", b"ENVIRONMENT: production", ".env"),
    ("secrets/auth_secret", b"\x80\xff\x00", "AUTH_SECRET"),
    ("secrets/server_trusted_proxy", b"10.0.0.5", "SERVER_TRUSTED_PROXIES"),
]


def environment(folder: Path, **changes: str) -> dict[str, str]:
    """Return the environment of the service, without settings from this shell.

    Without the variables of coverage too, which doubles the time of a start. What runs here is
    measured in test_serving.py.
    """
    (folder / "secrets").mkdir(exist_ok=True)
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
    return {
        **kept,
        "PYTHONPATH": str(PROJECT),
        "SECRETS_DIR": str(folder / "secrets"),
        **changes,
    }


def refusal(folder: Path, **changes: str) -> str:
    """Start the service, wait until it exits, and return its messages."""
    started = subprocess.run(
        COMMAND,
        cwd=folder,
        env=environment(folder, **changes),
        capture_output=True,
        encoding="utf-8",
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert started.returncode == 1
    assert "Traceback" not in started.stdout + started.stderr
    return started.stderr


@pytest.mark.parametrize(("changes", "name"), REFUSED)
def test_invalid_setting_ends_the_start_with_a_sentence(
    tmp_path: Path, changes: dict[str, str], name: str
) -> None:
    message = refusal(tmp_path, **changes)
    assert re.search(rf"The service cannot start.*\s{name}\b", message, re.DOTALL)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"username": "stranger"}, 'password authentication failed for user "stranger"'),
        ({"password": "hunter2"}, "password authentication failed"),
        ({"database": "nowhere"}, 'database "nowhere" does not exist'),
    ],
)
def test_refused_database_login_ends_the_start_with_the_reason(
    settings: Settings, tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    url = make_url(settings.database.url.get_secret_value()).set(**change)
    changes = {
        **servers(settings),
        "DATABASE_URL": url.render_as_string(hide_password=False),
        "WEB_CONCURRENCY": "2",
        "SERVER_PORT": free_port(),
    }
    said = refusal(tmp_path, **changes)
    assert "The service cannot start. DATABASE_URL: " in said
    assert reason in said
    assert str(url.password) not in said


async def test_missing_schema_is_a_warning_at_start_up(settings: Settings, tmp_path: Path) -> None:
    base, _, _ = settings.database.url.get_secret_value().rpartition("/")
    message = asyncio.to_thread(first_lines, tmp_path, DATABASE_URL=f"{base}/template1")
    assert "Migrate it with: alembic upgrade head" in await message


def test_unreachable_database_is_a_warning_at_start_up(tmp_path: Path) -> None:
    said = first_lines(tmp_path, DATABASE_URL="postgresql://a:hunter2@127.0.0.1:1/app")
    assert "The database was not reached" in said
    assert "correct DATABASE_URL" in said
    assert "hunter2" not in said


def test_missing_mail_server_is_one_warning_at_start_up(tmp_path: Path) -> None:
    away = {"DATABASE_URL": "postgresql://a:b@127.0.0.1:1/x"}
    production = {"ENVIRONMENT": "production", "AUTH_SECRET": "s" * 40, "WEB_CONCURRENCY": "2"}
    said = first_lines(tmp_path, **away, **production)
    assert said.count("MAIL_URL is not set, so no mail is sent") == 1
    assert "Set MAIL_URL and MAIL_LINKS_URL" in said
    said = first_lines(tmp_path, **away, **production | {"ENVIRONMENT": "development"})
    assert "MAIL_URL" not in said


def first_lines(folder: Path, **changes: str) -> str:
    """Start the service, and return its messages before the first worker boots."""
    process = subprocess.Popen(
        COMMAND,
        cwd=folder,
        env=environment(folder, **changes, SERVER_PORT=free_port(), SERVER_DRAIN_SECONDS="0"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
    )
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if "Booting worker" in line:
            break
    process.terminate()
    process.communicate(timeout=PATIENCE_SECONDS)
    return "".join(lines)


@pytest.mark.parametrize(("file", "content", "name"), FILES)
def test_invalid_file_ends_the_start_with_a_sentence(
    tmp_path: Path, file: str, content: bytes, name: str
) -> None:
    environment(tmp_path)
    (tmp_path / file).write_bytes(content)
    assert name in refusal(tmp_path)


@asynccontextmanager
async def started(folder: Path, url: str, **changes: str) -> AsyncIterator[Path]:
    """Start the service and wait until it is ready at `url`. Yield the file with its output."""
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            COMMAND, cwd=folder, env=environment(folder, **changes), stdout=output, stderr=output
        )
    try:
        async with asyncio.timeout(PATIENCE_SECONDS), httpx2.AsyncClient() as client:
            while await readiness(client, url) != 200:
                assert process.poll() is None, log.read_text(encoding="utf-8")
                await asyncio.sleep(0.1)
        yield log
    finally:
        process.terminate()
        process.wait(PATIENCE_SECONDS)
    assert "Traceback" not in log.read_text(encoding="utf-8")


async def readiness(client: httpx2.AsyncClient, url: str) -> int:
    try:
        return (await client.get(f"{url}/readyz")).status_code
    except httpx2.HTTPError:
        return 0


def free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return str(free.getsockname()[1])


def servers(settings: Settings) -> dict[str, str]:
    """Return the settings for the servers of the tests."""
    return {
        "DATABASE_URL": settings.database.url.get_secret_value(),
        "VALKEY_URL": settings.valkey.url.get_secret_value(),
        "SERVER_DRAIN_SECONDS": "0",
    }


async def test_service_runs_with_one_worker_per_core_on_the_port_of_the_platform(
    settings: Settings, tmp_path: Path
) -> None:
    port = free_port()
    changes = {"PORT": port, "WEB_CONCURRENCY": "auto", "ENVIROMENT": "production"}
    async with started(tmp_path, f"http://127.0.0.1:{port}", **servers(settings), **changes) as log:
        said = log.read_text(encoding="utf-8")
    assert "ENVIROMENT is not a setting, the nearest one is ENVIRONMENT" in said


@pytest.mark.skipif(not socket.has_ipv6, reason="Python was built without IPv6")
@pytest.mark.parametrize(("host", "clients"), [("::1", ["[::1]"]), ("::", ["[::1]", "127.0.0.1"])])
async def test_service_listens_on_ipv6_and_serves_ipv4_clients(
    settings: Settings, tmp_path: Path, host: str, clients: list[str]
) -> None:
    port = free_port()
    changes = {"SERVER_HOST": host, "SERVER_PORT": port, "WEB_CONCURRENCY": "1"}
    async with (
        started(tmp_path, f"http://[::1]:{port}", **servers(settings), **changes),
        httpx2.AsyncClient() as client,
    ):
        for address in clients:  # both loopback addresses may read metrics, and are trusted proxies
            metrics = f"http://{address}:{port}/metrics"
            forwarded = {"X-Forwarded-For": "203.0.113.9"}
            assert (await client.get(metrics)).status_code == 200
            assert (await client.get(metrics, headers=forwarded)).status_code == 404


@pytest.mark.parametrize(
    ("hops", "answers"),
    [
        (
            "1",
            [
                (["127.0.0.1, 203.0.113.9"], 404),  # the client claims to be the machine itself
                (["127.0.0.1", "203.0.113.9"], 404),  # in a line of its own
                (["203.0.113.9, 127.0.0.1"], 200),  # the router says so
            ],
        ),
        (
            "2",
            [
                (["127.0.0.1, 203.0.113.9, 127.0.0.1"], 404),
                (["203.0.113.9"], 200),  # it did not pass both, so its own address counts
            ],
        ),
    ],
)
async def test_only_the_proxies_in_front_tell_the_address_of_a_client(
    settings: Settings, tmp_path: Path, hops: str, answers: list[tuple[list[str], int]]
) -> None:
    """Clients in 127.0.0.0/8 may read the metrics, so the status shows the address."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    changes = {"SERVER_PORT": port, "SERVER_TRUSTED_PROXIES": hops, "WEB_CONCURRENCY": "1"}
    async with (
        started(tmp_path, url, **servers(settings), **changes),
        httpx2.AsyncClient() as client,
    ):
        for forwarded, status in answers:
            headers = [("X-Forwarded-For", line) for line in forwarded]
            response = await client.get(f"{url}/metrics", headers=headers)
            assert response.status_code == status, forwarded


def libpq_variables() -> set[str]:
    """Return the variables that asyncpg reads, and more that PostgreSQL's programs read."""
    source = (Path(asyncpg.__file__).parent / "connect_utils.py").read_text(encoding="utf-8")
    read = set(re.findall(r"[\"'](PG[A-Z]+)[\"']", source))
    return read | {"PGOPTIONS", "PGCHANNELBINDING", "PGCONNECT_TIMEOUT"}


async def test_locale_and_variables_of_libpq_have_no_effect(
    settings: Settings, tmp_path: Path
) -> None:
    variables = libpq_variables()
    assert {"PGSSLMODE", "PGTARGETSESSIONATTRS", "PGGSSLIB", "PGSSLCERT"} <= variables
    (tmp_path / ".env").write_text("AUTH_ISSUER=é\n", encoding="utf-8")
    port = free_port()
    changes = {**dict.fromkeys(variables, "wrong"), **C_LOCALE, "SERVER_PORT": port}
    changes["WEB_CONCURRENCY"] = ""  # as Compose sets it
    async with started(
        tmp_path, f"http://127.0.0.1:{port}", **servers(settings), **changes, AUTH_AUDIENCE="é"
    ):
        pass
