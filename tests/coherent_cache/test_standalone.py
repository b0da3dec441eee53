"""The package works in another project, without the rest of this repository."""

import asyncio
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path

import httpx2
import pytest

from coherent_cache.config import CacheConfig

PROJECT = Path(__file__).parents[2]
PATIENCE_SECONDS = 60


@pytest.fixture
async def urls(tmp_path: Path, database_url: str, config: CacheConfig) -> AsyncIterator[list[str]]:
    """The URLs of two processes of the other project."""
    shutil.copytree(PROJECT / "coherent_cache", tmp_path / "coherent_cache")
    shutil.copy(PROJECT / "tests/coherent_cache/standalone.py", tmp_path / "service.py")
    environment = {
        "DATABASE_URL": database_url.replace("+asyncpg", ""),
        "VALKEY_URL": config.valkey_url,
    }
    with ExitStack() as stack:
        urls = []
        for _ in range(2):
            with socket.create_server(("127.0.0.1", 0)) as free:
                port = free.getsockname()[1]
            command = [sys.executable, "-m", "uvicorn", "service:app", f"--port={port}"]
            process = subprocess.Popen(
                command, cwd=tmp_path, env={"PATH": os.environ["PATH"], **environment}
            )
            stack.callback(process.wait)
            stack.callback(process.terminate)
            urls.append(f"http://127.0.0.1:{port}")
            # If both processes created the tables at the same time, one of them would fail.
            await wait_until_served(urls[-1])
        yield urls


async def wait_until_served(url: str) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS), httpx2.AsyncClient() as client:
        while True:
            try:
                (await client.get(f"{url}/notes/0")).raise_for_status()
            except httpx2.HTTPError:
                await asyncio.sleep(0.1)
            else:
                return


async def test_each_process_shows_what_the_other_wrote(urls: list[str]) -> None:
    one, other = (f"{url}/notes/1" for url in urls)
    async with httpx2.AsyncClient(timeout=PATIENCE_SECONDS) as client:
        for text in ("first", "second"):
            (await client.put(one, params={"text": text})).raise_for_status()
            is_cached = False
            async with asyncio.timeout(PATIENCE_SECONDS):
                while not is_cached:  # a busy machine may take too long for a look-up
                    answer = await client.get(other)
                    assert answer.text == text
                    is_cached = answer.headers["x-cache"] == "HIT"


async def test_tests_of_the_package_run_without_the_rest_of_the_repository(
    tmp_path: Path, config: CacheConfig
) -> None:
    for folder in ("coherent_cache", "tests/coherent_cache"):
        shutil.copytree(PROJECT / folder, tmp_path / folder)
    (tmp_path / "tests/__init__.py").touch()
    shutil.copy(PROJECT / "pyproject.toml", tmp_path)
    environment = {
        "PATH": os.environ["PATH"],
        "TEST_DATABASE_URL": os.environ["TEST_DATABASE_URL"],
        "TEST_VALKEY_URL": config.valkey_url,
    }
    # pytest imports every module, and runs the tests of one. All tests would take too long.
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    process = await asyncio.create_subprocess_exec(
        *command,
        "-k=test_invalidation",
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
