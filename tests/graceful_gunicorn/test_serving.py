"""Shutdown and reload of the real service under Gunicorn, with the service's own configuration."""

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
from tests.graceful_gunicorn.service_process import (
    PATIENCE_SECONDS,
    PROJECT,
    get_status,
    wait_for_status,
    worker_pids,
)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """The log file of the master and its worker."""
    return tmp_path / "log"


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    """The secrets directory of the service. A test changes a setting by writing a file here."""
    (tmp_path / "secrets").mkdir()
    return tmp_path / "secrets"


@pytest.fixture
async def master(
    settings: Settings, log: Path, secrets: Path
) -> AsyncIterator[tuple[subprocess.Popen[bytes], str]]:
    """The service with one worker, when it is ready, and its address."""
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
        await wait_for_status(url, "/readyz", 200)
        yield process, url
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


async def test_on_sigterm_the_instance_becomes_unready_keeps_serving_and_then_exits(
    master: tuple[subprocess.Popen[bytes], str],
) -> None:
    process, url = master
    process.send_signal(signal.SIGTERM)
    await wait_for_status(url, "/readyz", 503)
    assert await get_status(url, "/livez") == 200
    await wait_for_status(url, "/livez", 0)
    assert await asyncio.to_thread(process.wait, PATIENCE_SECONDS) == 0


async def test_a_reload_keeps_the_instance_ready_and_a_second_sigterm_ends_it_immediately(
    master: tuple[subprocess.Popen[bytes], str],
) -> None:
    process, url = master
    [old] = worker_pids(process)
    process.send_signal(signal.SIGHUP)
    statuses = set()
    async with asyncio.timeout(PATIENCE_SECONDS):
        while old in worker_pids(process):
            statuses.add(await get_status(url, "/readyz"))
    assert statuses == {200}
    process.send_signal(signal.SIGTERM)
    await wait_for_status(url, "/readyz", 503)
    process.send_signal(signal.SIGTERM)
    await wait_for_status(url, "/livez", 0)
    assert await asyncio.to_thread(process.wait, PATIENCE_SECONDS) == 0


async def test_a_reload_with_an_invalid_setting_changes_nothing(
    master: tuple[subprocess.Popen[bytes], str], log: Path, secrets: Path
) -> None:
    process, url = master
    old = worker_pids(process)
    (secrets / "limits_running").write_text("many", encoding="utf-8")
    process.send_signal(signal.SIGHUP)
    async with asyncio.timeout(PATIENCE_SECONDS):
        while "LIMITS_RUNNING" not in (text := log.read_text(encoding="utf-8")):
            await asyncio.sleep(0.05)
    assert "Not reloaded" in text
    assert (worker_pids(process), await get_status(url, "/readyz")) == (old, 200)
    (secrets / "limits_running").write_text("10", encoding="utf-8")
    process.send_signal(signal.SIGHUP)
    async with asyncio.timeout(PATIENCE_SECONDS):
        while set(old) & set(worker_pids(process)):
            await asyncio.sleep(0.05)
    assert await get_status(url, "/readyz") == 200


async def test_a_reload_with_a_port_that_is_in_use_changes_nothing(
    master: tuple[subprocess.Popen[bytes], str], log: Path, secrets: Path
) -> None:
    process, url = master
    old = worker_pids(process)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        (secrets / "metrics_port").write_text(str(port), encoding="utf-8")
        process.send_signal(signal.SIGHUP)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while f"cannot listen at 127.0.0.1:{port}" not in (text := log.read_text("utf-8")):
                await asyncio.sleep(0.05)
    assert "Not reloaded" in text
    assert (worker_pids(process), await get_status(url, "/readyz")) == (old, 200)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
async def test_an_immediate_shutdown_answers_running_requests_and_logs_no_traceback(
    master: tuple[subprocess.Popen[bytes], str], log: Path, number: signal.Signals
) -> None:
    process, url = master
    address = httpx2.URL(url)
    stream, stream_writer = await open_and_send(
        address, b"GET /board/events HTTP/1.1\r\nHost: test\r\n\r\n"
    )
    assert (await stream.readline()).split()[1] == b"200"
    head = b"POST /v1/users HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
    unfinished, unfinished_writer = await open_and_send(
        address, head + b"Content-Length: 100\r\n\r\n{"
    )
    await wait_for_status(url, "/livez", 200)  # the worker has then read the earlier requests too
    process.send_signal(number)
    async with asyncio.timeout(PATIENCE_SECONDS):
        answer = await unfinished.read()
        await stream.read()
    stream_writer.close()
    unfinished_writer.close()
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"application/problem+json" in answer
    assert await asyncio.to_thread(process.wait, PATIENCE_SECONDS) == 0
    text = log.read_text(encoding="utf-8")
    assert "Application shutdown complete" in text
    assert "Traceback" not in text


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT, signal.SIGTERM])
async def test_an_interrupted_start_logs_no_traceback(
    settings: Settings, number: signal.Signals
) -> None:
    connected = asyncio.Event()

    async def accept_and_stay_silent(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        connected.set()
        with suppress(ConnectionError):
            await reader.read()
        writer.close()

    async with await asyncio.start_server(accept_and_stay_silent, "127.0.0.1", 0) as server:
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
            await connected.wait()  # the master queries the database before it listens
            process.send_signal(number)
            output, _ = await process.communicate()
    assert process.returncode == -number
    assert b"Traceback" not in output


async def open_and_send(
    address: httpx2.URL, content: bytes
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Open a connection and send `content`."""
    reader, writer = await asyncio.open_connection(address.host, address.port)
    writer.write(content)
    return reader, writer
