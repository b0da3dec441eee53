"""The package works in another project, without the rest of this repository."""

import asyncio
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

PROJECT = Path(__file__).parents[2]
PATIENCE_SECONDS = 60


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port


@pytest.fixture
def master(tmp_path: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Gunicorn with two workers, in a folder that contains only the package and the service."""
    shutil.copytree(PROJECT / "graceful_gunicorn", tmp_path / "graceful_gunicorn")
    tests = PROJECT / "tests/graceful_gunicorn"
    shutil.copy(tests / "standalone.py", tmp_path / "service.py")
    shutil.copy(tests / "standalone_config.py", tmp_path / "gunicorn_config.py")
    command = ["gunicorn", "-c", "gunicorn_config.py", "-b", f"127.0.0.1:{port}", "service:app"]
    process = subprocess.Popen(
        [sys.executable, "-m", *command], cwd=tmp_path, env={"PATH": os.environ["PATH"]}
    )
    yield process
    if process.poll() is None:
        process.kill()
    process.wait()


async def wait_until_served(client: httpx2.AsyncClient) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            try:
                (await client.get("/sleep/0")).raise_for_status()
            except httpx2.HTTPError:
                await asyncio.sleep(0.1)
            else:
                return


async def test_the_service_reloads_without_loss_refuses_slow_heads_and_shuts_down(
    master: subprocess.Popen[bytes], port: int
) -> None:
    url = f"http://127.0.0.1:{port}"
    async with httpx2.AsyncClient(base_url=url, timeout=PATIENCE_SECONDS) as client:
        await wait_until_served(client)
        running = [asyncio.create_task(client.get("/sleep/1")) for _ in range(10)]
        await asyncio.sleep(0.2)
        master.send_signal(signal.SIGHUP)
        answers = [await client.get("/sleep/0.01") for _ in range(100)]
        answers += [await task for task in running]
        assert {answer.status_code for answer in answers} == {200}
        # All workers together, the replaced ones too, and the requests before the first answer.
        counted = re.search(
            r"^naps_total ([\d.]+)$", (await client.get("/metrics")).text, re.MULTILINE
        )
        assert counted
        assert float(counted[1]) > len(answers)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\r\n")
    async with asyncio.timeout(PATIENCE_SECONDS):
        assert (await reader.readline()).startswith(b"HTTP/1.1 408")
    writer.close()
    master.terminate()
    async with asyncio.timeout(PATIENCE_SECONDS):
        assert await asyncio.to_thread(master.wait) == 0
