"""Workers of the real service that cannot boot, under Gunicorn."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from app.settings import Settings
from tests.graceful_gunicorn.service_process import (
    PATIENCE_SECONDS,
    PROJECT,
    get_status,
    wait_for_status,
    worker_pids,
)

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
from app.main import app

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

Start = Callable[[], tuple[subprocess.Popen[bytes], str]]


@pytest.fixture
async def start(settings: Settings, tmp_path: Path) -> AsyncIterator[Start]:
    """Return a function that starts the service with two workers, and returns its address.

    The service writes its log to `tmp_path / "log"`.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (tmp_path / "breakable.py").write_text(BREAKABLE, encoding="utf-8")
    environment = {
        "WEB_CONCURRENCY": "2",
        "SERVER_PORT": str(port),
        "SERVER_DRAIN_SECONDS": "0",
        "PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "metrics"),
        "DATABASE_URL": settings.database.url.get_secret_value(),
        "VALKEY_URL": settings.valkey.url.get_secret_value(),
        "PYTHONPATH": str(tmp_path),
    }
    processes = []

    def start_service() -> tuple[subprocess.Popen[bytes], str]:
        with (tmp_path / "log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "app.serve", "breakable:app"],
                cwd=PROJECT,
                env=os.environ | environment,
                stdout=log,
                stderr=log,
            )
        processes.append(process)
        return process, f"http://127.0.0.1:{port}"

    yield start_service
    for process in processes:
        process.kill()
        process.wait()


async def wait_until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():
            await asyncio.sleep(0.1)


async def test_the_other_worker_keeps_serving_until_the_boot_is_repaired(
    start: Start, tmp_path: Path
) -> None:
    process, url = start()
    log = tmp_path / "log"
    await wait_until(lambda: log.read_text(encoding="utf-8").count("startup complete") == 2)
    await wait_for_status(url, "/readyz", 200)
    (tmp_path / "broken").touch()
    victim, other = worker_pids(process)
    os.kill(victim, signal.SIGKILL)
    await wait_until(
        lambda: (
            "could not boot" in log.read_text(encoding="utf-8")
            and "3 times" in log.read_text(encoding="utf-8")
        )
    )
    assert "This was raised on purpose" in log.read_text(encoding="utf-8")
    assert process.poll() is None
    assert await get_status(url, "/v1/posts") == 200
    (tmp_path / "broken").unlink()
    await wait_until(lambda: log.read_text(encoding="utf-8").count("startup complete") == 3)
    assert other in worker_pids(process)
    assert await get_status(url, "/v1/posts") == 200


@pytest.mark.parametrize("failure", ["broken", "unstartable"])
async def test_a_first_start_that_fails_in_every_worker_ends_the_instance_with_the_reason(
    start: Start, tmp_path: Path, failure: str
) -> None:
    (tmp_path / failure).touch()
    process, _ = start()
    assert await asyncio.to_thread(process.wait, PATIENCE_SECONDS) != 0
    log = (tmp_path / "log").read_text(encoding="utf-8")
    assert "This was raised on purpose" in log
    assert "HaltServer" not in log
    assert "Reason: Worker failed to boot." in log.splitlines()[-1]
