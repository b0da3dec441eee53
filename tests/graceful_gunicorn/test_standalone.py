"""The package works in another project, without the rest of this repository."""

import asyncio
import os
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.graceful_gunicorn.instance import PATIENCE_SECONDS, PROJECT, Instance, start_standalone


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[Instance]:
    """The service, in a folder that contains only the package and the service."""
    shutil.copytree(PROJECT / "graceful_gunicorn", tmp_path / "graceful_gunicorn")
    instance = start_standalone(tmp_path, environment={"PATH": os.environ["PATH"]})
    yield instance
    instance.end()


async def test_the_service_reloads_without_loss_refuses_slow_heads_and_shuts_down(
    instance: Instance,
) -> None:
    await instance.wait_for("/sleep/0", 200)
    async with httpx2.AsyncClient(base_url=instance.url, timeout=PATIENCE_SECONDS) as client:
        running = [asyncio.create_task(client.get("/sleep/1")) for _ in range(10)]
        await asyncio.sleep(0.2)
        instance.signal(signal.SIGHUP)
        answers = [await client.get("/sleep/0.01") for _ in range(100)]
        answers += [await task for task in running]
        assert {answer.status_code for answer in answers} == {200}
        # All workers together, the replaced ones too, and the requests before the first answer.
        counted = re.search(
            r"^naps_total ([\d.]+)$", (await client.get("/metrics")).text, re.MULTILINE
        )
        assert counted
        assert float(counted[1]) > len(answers)
    reader, writer = await instance.send(b"GET / HTTP/1.1\r\n")
    async with asyncio.timeout(PATIENCE_SECONDS):
        assert (await reader.readline()).startswith(b"HTTP/1.1 408")
    writer.close()
    instance.signal(signal.SIGTERM)
    assert await instance.exit_code() == 0
