"""Workers are replaced in every possible way, and no client notices."""

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.faults.author import sign_up
from tests.faults.callers import calling, until_enough
from tests.faults.conftest import Judge, Serve
from tests.faults.service import WORKER_CLASSES, Service, master_of

pytestmark = pytest.mark.faults
LEAST = 20_000
MOST_SECONDS = 90.0
USUAL_SECONDS, TIMES_SLOWER = 5.0, 3
IMPERCEPTIBLE_SECONDS = 0.1
RELOAD = "The service is reloaded twice (SIGHUP)"

Replace = Callable[[Service], Awaitable[None]]


async def until_gone(service: Service, old: set[int]) -> None:
    """Wait until these workers have exited and were replaced."""
    async with asyncio.timeout(MOST_SECONDS):
        while (
            any(Path(f"/proc/{worker}").exists() for worker in old)
            or await service.processes() & old
        ):
            await asyncio.sleep(0.2)


async def reload_twice(service: Service) -> None:
    for _ in range(2):
        old = await service.processes()
        os.kill(master_of(min(old)), signal.SIGHUP)
        await until_gone(service, old)


async def end_two_workers(service: Service) -> None:
    for _ in range(2):
        victim = min(await service.processes())
        os.kill(victim, signal.SIGTERM)
        await until_gone(service, {victim})


async def wait_for_recycling(service: Service) -> None:
    """Do nothing: the number of requests recycles the workers."""


@pytest.mark.parametrize("control", WORKER_CLASSES)
@pytest.mark.parametrize(
    ("case", "replace", "server"),
    [
        (RELOAD, reload_twice, {}),
        ("Two workers get SIGTERM, one after the other", end_two_workers, {}),
        (
            "Workers are recycled after about 2,000 requests",
            wait_for_recycling,
            {"max_requests": 2_000, "max_requests_jitter": 500},
        ),
    ],
)
async def test_no_request_is_lost(
    serve: Serve, judge: Judge, case: str, control: str, replace: Replace, server: dict[str, int]
) -> None:
    async with serve(control, server=server, worker_class=WORKER_CLASSES[control]) as service:
        post = (await sign_up(service.client)).post
        await service.client.aclose()  # its idle connections would keep old workers running
        first = await service.processes()
        async with calling(service.address, post) as calls:
            await asyncio.sleep(USUAL_SECONDS)
            began_at = time.monotonic()
            await replace(service)
            await until_enough(calls, LEAST)
        broken = calls.broken(LEAST)
        broken += ["no worker was replaced"] * bool(first & await service.processes())
    usual, slowest = calls.slowest(0, began_at), calls.slowest(began_at)
    if case == RELOAD and slowest > max(TIMES_SLOWER * usual, IMPERCEPTIBLE_SECONDS):
        broken.append(f"slowest {slowest * 1000:.0f} ms, {usual * 1000:.0f} ms before")
    figure = (
        f"{sum(calls.lost.values())} of {len(calls.replies):,} requests lost; the slowest took "
        f"{slowest * 1000:.0f} ms ({usual * 1000:.0f} ms before)"
    )
    judge(case, control, figure, broken)
