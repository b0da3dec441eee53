"""Helpers for tests that run the service under Gunicorn in a process of its own."""

import asyncio
import subprocess
from pathlib import Path

import httpx2

PROJECT = Path(__file__).parents[2]
PATIENCE_SECONDS = 60


async def get_status(url: str, path: str) -> int:
    """Send a GET request on a new connection. Return the status, or 0 if there is no response."""
    try:
        async with httpx2.AsyncClient(base_url=url, timeout=PATIENCE_SECONDS) as client:
            return (await client.get(path)).status_code
    except httpx2.HTTPError:
        return 0


async def wait_for_status(url: str, path: str, status: int) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while await get_status(url, path) != status:
            await asyncio.sleep(0.05)


def worker_pids(master: subprocess.Popen[bytes]) -> list[int]:
    """Return the process ids of the master's children."""
    children = Path(f"/proc/{master.pid}/task/{master.pid}/children").read_text(encoding="utf-8")
    return [int(child) for child in children.split()]
