"""The service under Gunicorn, as it is configured."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest

from app.settings import Settings

PROJECT = Path(__file__).parents[3]
PATIENCE_SECONDS = 60


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Where the master says what it does."""
    return tmp_path / "log"


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    """Where settings are that can be changed."""
    (tmp_path / "secrets").mkdir()
    return tmp_path / "secrets"


@pytest.fixture
async def master(
    settings: Settings, log: Path, secrets: Path
) -> AsyncIterator[tuple[subprocess.Popen[bytes], str]]:
    """One worker of the service, ready, and its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {
        "WEB_CONCURRENCY": "1",
        "SERVER_PORT": str(port),
        "SERVER_DRAIN_SECONDS": "4",
        "DATABASE_URL": settings.database.url.get_secret_value(),
        "VALKEY_URL": settings.valkey.url.get_secret_value(),
        "SECRETS_DIR": str(secrets),
    }
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "app.serve"],
            cwd=PROJECT,
            env=os.environ | environment,
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        await until(url, "/readyz", 200)
        yield process, url
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


async def ask(url: str, path: str) -> int:
    """Ask on a new connection. 0 is no answer."""
    try:
        async with httpx2.AsyncClient(base_url=url, timeout=PATIENCE_SECONDS) as client:
            return (await client.get(path)).status_code
    except httpx2.HTTPError:
        return 0


async def until(url: str, path: str, status: int) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while await ask(url, path) != status:
            await asyncio.sleep(0.05)


async def test_it_is_unready_first_still_serves_and_then_ends(
    master: tuple[subprocess.Popen[bytes], str],
) -> None:
    process, url = master
    process.send_signal(signal.SIGTERM)
    await until(url, "/readyz", 503)
    assert await ask(url, "/livez") == 200
    await until(url, "/livez", 0)
    assert await asyncio.to_thread(process.wait, PATIENCE_SECONDS) == 0


async def test_a_reload_does_not_make_it_unready_and_a_second_signal_ends_it_at_once(
    master: tuple[subprocess.Popen[bytes], str],
) -> None:
    process, url = master
    [old] = workers_of(process)
    process.send_signal(signal.SIGHUP)
    seen = set()
    async with asyncio.timeout(PATIENCE_SECONDS):
        while old in workers_of(process):
            seen.add(await ask(url, "/readyz"))
    assert seen == {200}
    process.send_signal(signal.SIGTERM)
    await until(url, "/readyz", 503)
    process.send_signal(signal.SIGTERM)
    await until(url, "/livez", 0)
    assert await asyncio.to_thread(process.wait, PATIENCE_SECONDS) == 0


async def test_a_reload_with_a_setting_that_is_refused_changes_nothing(
    master: tuple[subprocess.Popen[bytes], str], log: Path, secrets: Path
) -> None:
    process, url = master
    old = workers_of(process)
    (secrets / "limits_running").write_text("many", encoding="utf-8")
    process.send_signal(signal.SIGHUP)
    async with asyncio.timeout(PATIENCE_SECONDS):
        while "LIMITS_RUNNING" not in (told := log.read_text(encoding="utf-8")):
            await asyncio.sleep(0.05)
    assert "Not reloaded" in told
    assert (workers_of(process), await ask(url, "/readyz")) == (old, 200)
    (secrets / "limits_running").write_text("10", encoding="utf-8")
    process.send_signal(signal.SIGHUP)
    async with asyncio.timeout(PATIENCE_SECONDS):
        while set(old) & set(workers_of(process)):
            await asyncio.sleep(0.05)
    assert await ask(url, "/readyz") == 200


def workers_of(master: subprocess.Popen[bytes]) -> list[int]:
    """Return the process ids of the children."""
    children = Path(f"/proc/{master.pid}/task/{master.pid}/children").read_text(encoding="utf-8")
    return [int(child) for child in children.split()]
