"""A large archive is made in bounded memory, and completely, even if its worker is killed."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import pytest

from tests.faults.conftest import Judge, Serve
from tests.faults.load import late, register
from tests.faults.postgres import Backend
from tests.faults.service import Service, resident_mib
from tests.faults.test_jobs import JOBS, started, worker_of
from tests.faults.verdicts import GUARDED

pytestmark = pytest.mark.faults
POSTS, KILLS = 30_000, 2
# Each post has 4 KB that hardly compress, so the archive has about 70 MB.
MAKE_POSTS = f"""
    INSERT INTO posts (author_id, title, body)
    SELECT users.id, 'Post ' || n,
        (SELECT string_agg(md5(n::text || '/' || m::text), '') FROM generate_series(1, 128) m)
    FROM users, generate_series(1, {POSTS}) n
"""
# Three parts of 8 MiB, and the rows of a batch.
LIMIT_MIB = 56
PATIENCE_SECONDS = 120


async def until(service: Service, url: str, headers: dict[str, str], status: str) -> dict[str, Any]:
    """Wait until the archive is as it should be. Return its last state."""
    state: dict[str, Any] = {}
    with suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE_SECONDS):
            while state.get("status") != status or (status == "running" and not state["progress"]):
                await asyncio.sleep(0.05)
                state = (await service.client.get(url, headers=headers)).json()
    return state


def posts_in(content: bytes) -> Iterator[int]:
    with suppress(BadZipFile, KeyError):
        for line in ZipFile(BytesIO(content)).read("posts.jsonl").splitlines():
            yield json.loads(line)["id"]


@pytest.mark.parametrize("control", [GUARDED, "with archives made in memory"])
async def test_archive_whose_worker_is_killed_is_complete(
    serve: Serve, backend: Backend, judge: Judge, tmp_path: Path, control: str
) -> None:
    storage = {"folder": str(tmp_path)}
    async with serve(control, jobs=JOBS, storage=storage) as service, worker_of(backend) as worker:
        _, headers = await register(service.client)
        await backend.rows(MAKE_POSTS)
        await backend.rows("DELETE FROM pgqueuer")
        response = await service.client.post("/v1/archives", headers=headers)
        url = response.headers["location"]
        for _ in range(KILLS):
            await started(backend)
            await until(service, url, headers, "running")
            worker.kill()
            worker.start()
        began = asyncio.get_running_loop().time()
        await asyncio.sleep(3)  # until it has begun
        before = resident_mib(worker.process.pid, "VmRSS")
        state = await until(service, url, headers, "done")
        seconds = asyncio.get_running_loop().time() - began
        grown = resident_mib(worker.process.pid, "VmHWM") - before
        download = await service.client.get(f"{url}/download", headers=headers)
        half = {**headers, "Range": f"bytes={len(download.content) // 2}-"}
        rest = await service.client.get(f"{url}/download", headers=half)
        expected = {row["id"] for row in await backend.rows("SELECT id FROM posts")}
    found = list(posts_in(download.content))
    broken = [
        *[f"the archive is {state.get('status')}"] * (state.get("status") != "done"),
        *[f"{len(expected - set(found))} of {POSTS} posts are missing"] * (set(found) != expected),
        *[f"{len(found) - len(set(found))} posts twice"] * (len(found) != len(set(found))),
        *["the resumed download differs"] * (not download.content.endswith(rest.content)),
        *[f"the memory of the worker grew by {grown:.0f} MiB"] * (grown > LIMIT_MIB),
        *late("it was done", seconds, PATIENCE_SECONDS),
    ]
    size = len(download.content) / 1024 / 1024
    figure = (
        f"an archive of {size:.0f} MiB with {len(found)} posts was done {seconds:.0f} s after the "
        f"last kill; the memory of the worker grew by {grown:.0f} MiB"
    )
    judge("The job worker is killed twice while it makes a large archive", control, figure, broken)
