"""The service under Gunicorn, as it is configured."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import httpx2
import pytest

from app.settings import Settings

PROJECT = Path(__file__).parents[3]
PATIENCE_SECONDS = 60


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Where the master and its worker say what they do."""
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
            stdout=errors,
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


async def test_a_reload_with_a_port_that_is_taken_changes_nothing(
    master: tuple[subprocess.Popen[bytes], str], log: Path, secrets: Path
) -> None:
    process, url = master
    old = workers_of(process)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        (secrets / "metrics_port").write_text(str(port), encoding="utf-8")
        process.send_signal(signal.SIGHUP)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while f"cannot listen at 127.0.0.1:{port}" not in (told := log.read_text("utf-8")):
                await asyncio.sleep(0.05)
    assert "Not reloaded" in told
    assert (workers_of(process), await ask(url, "/readyz")) == (old, 200)


def workers_of(master: subprocess.Popen[bytes]) -> list[int]:
    """Return the process ids of the children."""
    children = Path(f"/proc/{master.pid}/task/{master.pid}/children").read_text(encoding="utf-8")
    return [int(child) for child in children.split()]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
async def test_an_end_at_once_answers_what_runs_and_leaves_no_traceback(
    master: tuple[subprocess.Popen[bytes], str], log: Path, number: signal.Signals
) -> None:
    process, url = master
    place = httpx2.URL(url)
    stream, stream_writer = await opened(place, b"GET /board/events HTTP/1.1\r\nHost: test\r\n\r\n")
    assert (await stream.readline()).split()[1] == b"200"
    head = b"POST /v1/users HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
    unfinished, unfinished_writer = await opened(place, head + b"Content-Length: 100\r\n\r\n{")
    await until(url, "/livez", 200)  # a worker that has answered this has read the other requests
    process.send_signal(number)
    async with asyncio.timeout(PATIENCE_SECONDS):
        answer = await unfinished.read()
        await stream.read()
    stream_writer.close()
    unfinished_writer.close()
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"application/problem+json" in answer
    assert await asyncio.to_thread(process.wait, PATIENCE_SECONDS) == 0
    told = log.read_text(encoding="utf-8")
    assert "Application shutdown complete" in told
    assert "Traceback" not in told


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT, signal.SIGTERM])
async def test_a_start_that_is_interrupted_leaves_no_traceback(
    settings: Settings, number: signal.Signals
) -> None:
    connected = asyncio.Event()

    async def stay_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.set()
        with suppress(ConnectionError):
            await reader.read()
        writer.close()

    async with await asyncio.start_server(stay_silent, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        environment = {
            "DATABASE_URL": f"postgresql://app@127.0.0.1:{port}/app",
            "VALKEY_URL": settings.valkey.url.get_secret_value(),
        }
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "app.serve"),
            cwd=PROJECT,
            env=os.environ | environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        async with asyncio.timeout(PATIENCE_SECONDS):
            await connected.wait()  # the master asks the database before it listens
            process.send_signal(number)
            told, _ = await process.communicate()
    assert process.returncode == -number
    assert b"Traceback" not in told


async def opened(
    place: httpx2.URL, content: bytes
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Send something on a new connection."""
    reader, writer = await asyncio.open_connection(place.host, place.port)
    writer.write(content)
    return reader, writer
