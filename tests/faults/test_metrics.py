"""What the workers count together is what the clients counted, whatever becomes of the workers."""

import asyncio
import os
import re
import signal
from pathlib import Path

import pytest

from tests.faults.conftest import Serve
from tests.faults.service import Service
from tests.faults.verdicts import GUARDED

pytestmark = pytest.mark.faults
COUNTED = re.compile(
    r'^http_request_duration_seconds_count\{.*route="/v1/posts".*} (.+)$', re.MULTILINE
)
REQUESTS = 500


async def ask(service: Service, times: int = REQUESTS) -> int:
    """Ask some times, and return how often an answer came."""
    answers = await asyncio.gather(
        *(service.client.get("/v1/posts") for _ in range(times)), return_exceptions=True
    )
    return sum(not isinstance(answer, BaseException) for answer in answers)


async def counted(service: Service) -> int:
    """Return how many answers the metrics tell of."""
    return int(sum(map(float, COUNTED.findall((await service.client.get("/metrics")).text))))


async def workers(service: Service) -> set[int]:
    """Return the process ids of all workers."""
    return {worker["process_id"] for worker in await service.each_worker("/faults/vitals")}


def master_of(worker: int) -> int:
    """Return the process id of Gunicorn's master."""
    return int(Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[1])


async def until_replaced(service: Service, old: set[int]) -> None:
    """Wait until none of the old workers is there, and as many as before are."""
    async with asyncio.timeout(60):
        while (
            any(Path(f"/proc/{worker}").exists() for worker in old) or await workers(service) & old
        ):
            await asyncio.sleep(0.2)


async def test_nothing_is_lost_in_a_reload_and_little_with_a_worker(serve: Serve) -> None:
    async with serve(GUARDED) as service:
        answered = await ask(service)
        same = await counted(service) == answered
        old = await workers(service)
        os.kill(master_of(min(old)), signal.SIGHUP)
        await until_replaced(service, old)
        answered += await ask(service)
        after_reload = await counted(service)
        [victim, *_] = await workers(service)
        running = asyncio.create_task(ask(service))
        await asyncio.sleep(0.05)
        os.kill(victim, signal.SIGKILL)
        answered_all = answered + await running
        await until_replaced(service, {victim})
        after_kill = await counted(service)
    cut = answered + REQUESTS - answered_all
    assert same
    assert after_reload == answered
    assert abs(after_kill - answered_all) <= cut
