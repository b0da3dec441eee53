"""Jobs run exactly once, whoever is killed, and only if their request was committed."""

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from dev.servers import ROOT
from tests.faults.conftest import Judge, Serve
from tests.faults.jobs import LONGEST_SECONDS, TABLE
from tests.faults.load import timed
from tests.faults.postgres import Backend
from tests.faults.service import Service
from tests.faults.verdicts import GUARDED

pytestmark = pytest.mark.faults
KILLS, KILLS_OF_CONTROL, JOBS_PER_KILL = 50, 10, 4
REPLACEMENTS, JOBS_PER_REPLACEMENT = 10, 20
REQUESTS, AT_ONCE = 1_000, 50
DELIVERIES, BESIDE_POISON = 3, 5
PATIENCE_SECONDS = 60
# A job of a killed worker runs again after two seconds.
JOBS = {
    "heartbeat_timeout_seconds": 2,
    "poll_seconds": 0.1,
    "deliveries": DELIVERIES,
    "retry_seconds": 0.1,
}
# The value of a sequence is not undone by a rollback, so job ids may have gaps.
WAITING = "SELECT id FROM pgqueuer WHERE status <> 'failed'"
RUNNING = "SELECT id FROM pgqueuer WHERE status = 'picked' AND attempts > 0"
HELD = "SELECT entrypoint FROM pgqueuer WHERE status = 'failed'"


class Worker:
    """A job worker that a case may kill."""

    def __init__(self) -> None:
        self.starts = 0

    def start(self) -> None:
        self.starts += 1
        command = [sys.executable, "-m", "tests.faults.job_worker"]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    async def replace(self) -> float:
        """Start another worker, and let the old one stop. Return how many seconds that took."""
        old = self.process
        self.start()
        began = time.monotonic()
        old.terminate()
        await asyncio.to_thread(old.wait)
        return time.monotonic() - began

    async def keep_running(self) -> None:
        """Start it again whenever it was killed."""
        while True:
            if self.process.poll() is not None:
                self.start()
            await asyncio.sleep(0.05)


@asynccontextmanager
async def worker_of(backend: Backend) -> AsyncIterator[Worker]:
    """Run a job worker, with an empty queue. Call this while the service runs."""
    await backend.rows(TABLE)
    await backend.rows("TRUNCATE job_effects, pgqueuer")
    worker = Worker()
    worker.start()
    try:
        yield worker
    finally:
        worker.kill()


async def effects(backend: Backend) -> Counter[int]:
    """Return how often each job has taken effect."""
    rows = await backend.rows("SELECT number FROM job_effects")
    return Counter(row["number"] for row in rows)


async def drained(backend: Backend) -> None:
    """Wait until no job waits or runs."""
    with suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE_SECONDS):
            while await backend.rows(WAITING):
                await asyncio.sleep(0.05)


async def started(backend: Backend) -> None:
    """Wait until a job runs."""
    while not await backend.rows(RUNNING):
        await asyncio.sleep(0.01)


async def accepted(service: Service, number: int) -> bool:
    answer = await timed(service.client, "POST", f"/faults/jobs/{number}")
    return answer.status == 202


@pytest.mark.parametrize("control", [GUARDED, "with jobs removed after their effects"])
async def test_workers_are_killed(
    serve: Serve, backend: Backend, judge: Judge, control: str
) -> None:
    """A process of the service is killed after its 202, and the job worker within a job."""
    promised: list[int] = []
    kills = KILLS if control == GUARDED else KILLS_OF_CONTROL
    async with serve(control, jobs=JOBS) as service, worker_of(backend) as worker:
        for kill in range(kills):
            first = kill * JOBS_PER_KILL
            victim = await service.oldest_process()
            numbers = range(first, first + JOBS_PER_KILL)
            promised += [number for number in numbers if await accepted(service, number)]
            os.kill(victim, signal.SIGKILL)
            async with asyncio.timeout(PATIENCE_SECONDS):
                await started(backend)
            await asyncio.sleep(random.uniform(0, 2 * LONGEST_SECONDS))
            worker.kill()
            worker.start()
            await drained(backend)
        found = await effects(backend)
        left = len(await backend.rows("SELECT id FROM pgqueuer"))
    lost = [number for number in promised if not found[number]]
    twice = [number for number, times in found.items() if times > 1]
    broken = [f"{len(lost)} jobs were lost"] * bool(lost)
    broken += [f"{len(twice)} jobs took effect more than once"] * bool(twice)
    broken += [f"{left} jobs are left"] * bool(left)
    figure = f"{len(promised)} jobs, {kills} kills of each: {len(lost)} lost, {len(twice)} twice"
    judge("The service and the job worker are killed", control, figure, broken)


@pytest.mark.parametrize("control", [GUARDED, "with jobs removed after their effects"])
async def test_a_worker_is_replaced(
    serve: Serve, backend: Backend, judge: Judge, control: str
) -> None:
    """A new worker starts, and the old one gets SIGTERM and hardly any time, while jobs arrive."""
    promised: list[int] = []
    exits: list[float] = []
    settings = JOBS | {"stop_seconds": 0.05, "deliveries": 1}
    async with serve(control, jobs=settings) as service, worker_of(backend) as worker:
        for replacement in range(REPLACEMENTS):
            first = replacement * JOBS_PER_REPLACEMENT
            numbers = range(first, first + JOBS_PER_REPLACEMENT)
            promised += [number for number in numbers if await accepted(service, number)]
            async with asyncio.timeout(PATIENCE_SECONDS):
                await started(backend)
            exits.append(await worker.replace())
        await drained(backend)
        found = await effects(backend)
        left = len(await backend.rows("SELECT id FROM pgqueuer"))
    lost = [number for number in promised if not found[number]]
    twice = [number for number, times in found.items() if times > 1]
    broken = [f"{len(lost)} jobs were lost"] * bool(lost)
    broken += [f"{len(twice)} jobs took effect more than once"] * bool(twice)
    broken += [f"{left} jobs are left"] * bool(left)
    figure = (
        f"{len(promised)} jobs, {REPLACEMENTS} replacements: {len(lost)} lost, {len(twice)} twice; "
        f"a worker exited after {max(exits):.1f} s at most"
    )
    judge("The job worker is replaced while jobs arrive", control, figure, broken)


@pytest.mark.parametrize("control", [GUARDED, "with deliveries that are not counted"])
async def test_a_job_that_kills_its_worker(
    serve: Serve, backend: Backend, judge: Judge, control: str
) -> None:
    async with serve(control, jobs=JOBS) as service, worker_of(backend) as worker:
        numbers = range(BESIDE_POISON)
        await service.client.post("/faults/jobs/poison/0")
        assert all([await accepted(service, number) for number in numbers])
        keeping = asyncio.create_task(worker.keep_running())
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_SECONDS):
                while await backend.rows(WAITING):
                    await asyncio.sleep(0.05)
        keeping.cancel()
        held = [row["entrypoint"] for row in await backend.rows(HELD)]
        found = await effects(backend)
    deaths = worker.starts - 1
    broken = [f"held: {held}"] * (held != ["faults.poison"])
    broken += [f"{deaths} workers died"] * (deaths > DELIVERIES)
    broken += ["the jobs beside it did not run once"] * (found != Counter(numbers))
    figure = f"held after {deaths} dead workers, and {len(found)} jobs beside it ran once"
    judge("A job kills its worker each time", control, figure, broken)


@pytest.mark.parametrize("control", [GUARDED, "with jobs enqueued beside the transaction"])
async def test_half_of_the_requests_roll_back(
    serve: Serve, backend: Backend, judge: Judge, control: str
) -> None:
    gate = asyncio.Semaphore(AT_ONCE)

    async def ask(service: Service, number: int) -> tuple[int, int]:
        undo = "?undo=true" if number % 2 else ""
        async with gate:
            answer = await timed(service.client, "POST", f"/faults/jobs/{number}{undo}")
        return number, answer.status

    async with serve(control, jobs=JOBS | {"concurrency": 50}) as service, worker_of(backend):
        answers = await asyncio.gather(*(ask(service, number) for number in range(REQUESTS)))
        await drained(backend)
        found = await effects(backend)
    committed = {number for number, status in answers if status == 202}
    undone = {number for number, status in answers if status == 409}
    wrong = sum(found[number] for number in undone)
    missing = [number for number in committed if found[number] != 1]
    broken = [f"{wrong} jobs of undone requests ran"] * bool(wrong)
    broken += [f"{len(missing)} jobs did not run exactly once"] * bool(missing)
    figure = (
        f"{len(committed)} committed and {len(undone)} undone requests, {found.total()} jobs ran"
    )
    judge("Requests that enqueue a job are undone", control, figure, broken)
