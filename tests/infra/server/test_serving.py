"""Shutdown and reload of the service under Gunicorn, with its own configuration."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest

from app.settings import Settings
from tests.graceful_gunicorn.instance import (
    PATIENCE_SECONDS,
    PROJECT,
    Instance,
    free_port,
    wait_until,
)


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    """The secrets directory of the service. A test changes a setting by writing a file here."""
    (tmp_path / "secrets").mkdir()
    return tmp_path / "secrets"


@pytest.fixture
def arguments() -> list[str]:
    """The arguments of Gunicorn."""
    return []


@pytest.fixture
async def instance(
    settings: Settings, tmp_path: Path, secrets: Path, arguments: list[str]
) -> AsyncIterator[Instance]:
    """The service with one worker, when it is ready."""
    port = free_port()
    environment = {
        "WEB_CONCURRENCY": "1",
        "SERVER_PORT": str(port),
        "SERVER_DRAIN_SECONDS": "4",
        "DATABASE_URL": settings.database.url.get_secret_value(),
        "VALKEY_URL": settings.valkey.url.get_secret_value(),
        "SECRETS_DIR": str(secrets),
    }
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "app.serve", *arguments],
            cwd=PROJECT,
            env=os.environ | environment,
            stdout=log,
            stderr=log,
        )
    instance = Instance(process, port, tmp_path / "log")
    try:
        await instance.wait_for("/readyz", 200)
        yield instance
    finally:
        instance.end()


async def test_on_sigterm_the_service_becomes_unready_keeps_serving_and_then_exits(
    instance: Instance,
) -> None:
    instance.signal(signal.SIGTERM)
    await instance.wait_for("/readyz", 503)
    assert await instance.get("/livez") == 200
    await instance.wait_for("/livez", 0)
    assert await instance.exit_code() == 0


async def test_a_reload_keeps_the_service_ready_and_a_second_sigterm_ends_it_immediately(
    instance: Instance,
) -> None:
    [old] = instance.workers()
    instance.signal(signal.SIGHUP)
    statuses = set()
    async with asyncio.timeout(PATIENCE_SECONDS):
        while old in instance.workers():
            statuses.add(await instance.get("/readyz"))
            await asyncio.sleep(0.01)
    assert statuses == {200}
    instance.signal(signal.SIGTERM)
    await instance.wait_for("/readyz", 503)
    instance.signal(signal.SIGTERM)
    await instance.wait_for("/livez", 0)
    assert await instance.exit_code() == 0


async def test_a_reload_that_would_fail_changes_nothing(instance: Instance, secrets: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        too_many = {"environment": "production", "auth_secret": "s" * 32}
        too_many["database_pool_size"] = "100"
        await refused_reload(instance, secrets, {"limits_running": "many"}, "LIMITS_RUNNING")
        await refused_reload(instance, secrets, too_many, "Too many database connections")
        await refused_reload(
            instance, secrets, {"metrics_port": f"{port}"}, f"cannot listen at 127.0.0.1:{port}"
        )
    old = instance.workers()
    (secrets / "database_pool_size").write_text("2", encoding="utf-8")
    instance.signal(signal.SIGHUP)
    await wait_until(lambda: not set(old) & set(instance.workers()))
    assert await instance.get("/readyz") == 200


async def refused_reload(
    instance: Instance, secrets: Path, changes: dict[str, str], reason: str
) -> None:
    """Reload with settings with which the service cannot start. Then remove those again."""
    old, refusals = instance.workers(), instance.log.count("Not reloaded")
    for setting, value in changes.items():
        (secrets / setting).write_text(value, encoding="utf-8")
    instance.signal(signal.SIGHUP)
    await wait_until(lambda: instance.log.count("Not reloaded") > refusals)
    assert reason in instance.log
    assert (instance.workers(), await instance.get("/readyz")) == (old, 200)
    for setting in changes:
        (secrets / setting).unlink()


@pytest.mark.parametrize("arguments", [["--pythonpath", "tests/sample", "stream:service()"]])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
async def test_an_immediate_shutdown_answers_running_requests_and_logs_no_traceback(
    instance: Instance, number: signal.Signals
) -> None:
    stream, stream_writer = await instance.send(b"GET /test/stream HTTP/1.1\r\nHost: test\r\n\r\n")
    assert (await stream.readline()).split()[1] == b"200"
    head = b"POST /v1/users HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
    unfinished, unfinished_writer = await instance.send(head + b"Content-Length: 100\r\n\r\n{")
    await instance.wait_for("/livez", 200)  # the worker has then read the earlier requests too
    instance.signal(number)
    async with asyncio.timeout(PATIENCE_SECONDS):
        answer = await unfinished.read()
        await stream.read()
    stream_writer.close()
    unfinished_writer.close()
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"application/problem+json" in answer
    assert await instance.exit_code() == 0
    assert "Application shutdown complete" in instance.log
    assert "Traceback" not in instance.log


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
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await connected.wait()  # the master queries the database before it listens
                process.send_signal(number)
                output, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
    assert process.returncode == -number
    assert b"Traceback" not in output
