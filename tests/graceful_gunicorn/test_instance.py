"""Start, reload and shutdown of an instance, with the standalone service under Gunicorn."""

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.graceful_gunicorn.instance import (
    PATIENCE_SECONDS,
    PROJECT,
    Instance,
    start_standalone,
    wait_until,
)
from tests.tls import make_certificate

# The service, unless a file named `broken` (the import fails) or `unstartable` (the lifespan fails)
# exists. In the second case the two workers fail one after the other, so that the master notices
# the exit of the first worker before the second one fails.
BREAKABLE = """
import asyncio
import os
from contextlib import asynccontextmanager, suppress
from pathlib import Path

if Path(__file__).with_name("broken").exists():
    raise ImportError("This was raised on purpose.")
from service import app

if Path(__file__).with_name("unstartable").exists():

    @asynccontextmanager
    async def fail_one_after_the_other(app):
        folder = Path(__file__).parent
        (folder / f"{os.getpid()}.worker").touch()
        while len(workers := list(folder.glob("*.worker"))) < 2:
            await asyncio.sleep(0.01)
        first, second = sorted(int(worker.stem) for worker in workers)
        with suppress(ProcessLookupError):
            while os.getpid() == second:  # until the master has reaped the first worker
                os.kill(first, 0)
                await asyncio.sleep(0.01)
        raise RuntimeError("This was raised on purpose.")
        yield

    app.router.lifespan_context = fail_one_after_the_other
"""
STARTED = "startup complete"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[], Instance]]:
    """Return a function that starts the service. A test breaks it by creating a file."""
    (tmp_path / "breakable.py").write_text(BREAKABLE, encoding="utf-8")
    instances: list[Instance] = []

    def start_service() -> Instance:
        instances.append(start_standalone(tmp_path, "breakable:app"))
        return instances[-1]

    yield start_service
    for instance in instances:
        instance.end()


@pytest.fixture
async def instance(start: Callable[[], Instance]) -> Instance:
    """The service, when both workers have started."""
    instance = start()
    await wait_until(lambda: instance.log.count(STARTED) == 2)
    return instance


async def test_on_sigterm_the_instance_becomes_unready_keeps_serving_and_then_exits(
    instance: Instance,
) -> None:
    instance.signal(signal.SIGTERM)
    await instance.wait_for("/ready", 503)
    assert await instance.get("/sleep/0") == 200
    await instance.wait_for("/sleep/0", 0)
    assert await instance.exit_code() == 0


async def test_a_second_sigterm_ends_the_instance_immediately(instance: Instance) -> None:
    reader, writer = await instance.send(b"GET /sleep/60 HTTP/1.1\r\nHost: test\r\n\r\n")
    instance.signal(signal.SIGTERM)
    await instance.wait_for("/ready", 503)
    instance.signal(signal.SIGTERM)
    assert await instance.exit_code() == 0
    await reader.read()
    writer.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
async def test_an_immediate_shutdown_runs_the_lifespan_and_logs_no_traceback(
    instance: Instance, number: signal.Signals
) -> None:
    reader, writer = await instance.send(b"GET /sleep/60 HTTP/1.1\r\nHost: test\r\n\r\n")
    assert await instance.get("/sleep/0") == 200
    instance.signal(number)
    assert await instance.exit_code() == 0
    await reader.read()
    writer.close()
    assert instance.log.count("Application shutdown complete") == 2


async def test_a_failed_tls_handshake_is_not_reported_as_an_error(tmp_path: Path) -> None:
    make_certificate(tmp_path)
    arguments = "--certfile=certificate.pem --keyfile=key.pem"
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "GUNICORN_CMD_ARGS": arguments}
    instance = start_standalone(tmp_path, environment=environment)
    try:
        await wait_until(lambda: instance.log.count(STARTED) == 2)
        for start_of_handshake in (b"", b"\x16\x03\x01\x02\x00\x01", b"GET / HTTP/1.1\r\n\r\n"):
            reader, writer = await instance.send(start_of_handshake)
            writer.write_eof()
            with suppress(ConnectionError):
                async with asyncio.timeout(PATIENCE_SECONDS):
                    await reader.read()  # until the server closes the connection
            writer.close()
        _, unfinished = await instance.send(b"")
        instance.signal(signal.SIGINT)
        assert await instance.exit_code() == 0
        unfinished.close()
        assert "Traceback" not in instance.log
        assert "never retrieved" not in instance.log
    finally:
        instance.end()


async def test_a_reload_replaces_all_workers_and_keeps_the_instance_ready(
    instance: Instance,
) -> None:
    old = instance.workers()
    instance.signal(signal.SIGHUP)
    statuses = set()
    while set(old) & set(instance.workers()):
        statuses.add(await instance.get("/ready"))
    assert statuses == {200}


async def test_a_reload_of_a_broken_application_changes_nothing(
    instance: Instance, tmp_path: Path
) -> None:
    old = instance.workers()
    (tmp_path / "broken").touch()
    instance.signal(signal.SIGHUP)
    await wait_until(lambda: "Not reloaded" in instance.log)
    assert "This was raised on purpose" in instance.log
    assert (instance.workers(), await instance.get("/ready")) == (old, 200)


async def test_a_reload_with_a_port_that_is_in_use_changes_nothing(
    instance: Instance, tmp_path: Path
) -> None:
    old = instance.workers()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        (tmp_path / "bind").write_text(f"127.0.0.1:{instance.port} {address}", encoding="utf-8")
        instance.signal(signal.SIGHUP)
        await wait_until(lambda: f"cannot listen at {address}" in instance.log)
    assert "Not reloaded" in instance.log
    assert (instance.workers(), await instance.get("/ready")) == (old, 200)


async def test_the_other_worker_keeps_serving_until_the_boot_is_repaired(
    instance: Instance, tmp_path: Path
) -> None:
    (tmp_path / "broken").touch()
    victim, other = instance.workers()
    os.kill(victim, signal.SIGKILL)
    await wait_until(lambda: "could not boot" in instance.log and "3 times" in instance.log)
    assert "This was raised on purpose" in instance.log
    assert instance.process.poll() is None
    assert await instance.get("/sleep/0") == 200
    (tmp_path / "broken").unlink()
    await wait_until(lambda: instance.log.count(STARTED) == 3)
    assert other in instance.workers()
    assert await instance.get("/sleep/0") == 200


@pytest.mark.parametrize("failure", ["broken", "unstartable"])
async def test_a_first_start_that_fails_in_every_worker_ends_the_instance_with_the_reason(
    start: Callable[[], Instance], tmp_path: Path, failure: str
) -> None:
    (tmp_path / failure).touch()
    instance = start()
    assert await instance.exit_code() != 0
    assert "This was raised on purpose" in instance.log
    assert "HaltServer" not in instance.log
    assert "Reason: Worker failed to boot." in instance.log.splitlines()[-1]
