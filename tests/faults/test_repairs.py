"""An instance repairs its own parts: it neither exits nor stops reporting."""

import asyncio
import os
import re
import shutil
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import pytest

from graceful_gunicorn.multiprocess_metrics import FOLDER
from tests.disks import fill, small_file_system
from tests.faults.conftest import Judge, Serve
from tests.faults.load import Answer, constantly, late, outcome, timed
from tests.faults.service import WORKERS, Service, master_of
from tests.faults.troubles import BROKEN
from tests.faults.verdicts import GUARDED

pytestmark = pytest.mark.faults

RATE = 40
DYING_SECONDS = 0.2  # a kill can cut off requests that ran this long before or after it
FULL_SECONDS, BROKEN_SECONDS, HEALED_SECONDS = 10.0, 10.0, 25.0
MOST_BOOTS, LEAST_BOOTS = 8, 2
EXHAUSTED_SECONDS, BACK_SECONDS, LOOKS = 4.0, 5.0, 10
DISK_BYTES = 4 * 2**20
TASKS = {"sampler", "cache channel", "cache relay"}
METHODS = ("GET", "PUT", "POST", "PATCH", "DELETE", "OPTIONS")
PATHS = ("/v1/posts", "/v1/posts/1", "/v1/users/me", "/v1/users/1", "/v1/posts/1/comments")


@dataclass
class Family:
    """The master, and all of its workers that were ever seen."""

    master: int
    seen: set[int] = field(default_factory=set)

    def look(self) -> list[int]:
        """Return the current workers."""
        with suppress(OSError):
            children = Path(f"/proc/{self.master}/task/{self.master}/children").read_text("utf-8")
            workers = [int(child) for child in children.split()]
            self.seen |= {*workers}
            return workers
        return []

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Look for new workers again and again."""

        async def watch() -> None:
            while True:
                self.look()
                await asyncio.sleep(0.02)

        task = asyncio.create_task(watch())
        try:
            yield
        finally:
            task.cancel()


async def metric(service: Service, name: str) -> float:
    """Return the sum of a metric over all labels, or 0 if no worker responds."""
    found = 0.0
    async with httpx2.AsyncClient(base_url=service.address.url, timeout=5) as client:
        with suppress(httpx2.HTTPError):
            text = (await client.get("/metrics")).text
            numbers = re.findall(rf"^{name}(?:\{{.*\}})? (\S+)$", text, re.MULTILINE)
            found = sum(map(float, numbers))
    return found


def no_connection_kept(service: Service) -> httpx2.AsyncClient:
    """Return a client that opens a connection for each request, so that any worker may respond."""
    limits = httpx2.Limits(max_keepalive_connections=0)
    return httpx2.AsyncClient(base_url=service.address.url, timeout=5, limits=limits)


async def ask(client: httpx2.AsyncClient) -> Answer:
    """Request a path that every worker serves."""
    return await timed(client, "GET", "/v1/posts")


def failures(answers: list[Answer], kills: list[float]) -> list[str]:
    """Return the failed requests that no kill can have cut off."""
    statuses = Counter(
        answer.status
        for answer in answers
        if not any(
            answer.sent_at - DYING_SECONDS <= at <= answer.sent_at + answer.seconds + DYING_SECONDS
            for at in kills
        )
    )
    del statuses[200]
    return [f"{number} × {outcome(status)}" for status, number in statuses.items()]


@pytest.mark.parametrize("control", [GUARDED, "without reserving disk space for metrics"])
async def test_workers_go_on_when_the_disk_of_the_metrics_is_full(
    serve: Serve, judge: Judge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, control: str
) -> None:
    loop, answers, kills = asyncio.get_running_loop(), list[Answer](), list[float]()
    with small_file_system(tmp_path / "disk", DISK_BYTES) as disk:
        monkeypatch.setenv(FOLDER, str(disk / "metrics"))
        async with serve(control) as service:
            old = await service.processes()
            family = Family(master_of(min(old)))
            fill(disk)
            async with (
                no_connection_kept(service) as client,
                family.watched(),
                constantly(RATE, lambda _: ask(client), answers),
            ):
                for method in METHODS:
                    for path in PATHS:  # each adds time series to the files
                        await timed(client, method, path)
                for worker in old & {*family.look()}:
                    kills.append(loop.time())
                    os.kill(worker, signal.SIGKILL)
                    await asyncio.sleep(FULL_SECONDS / WORKERS)
            missing = await metric(service, "metrics_lost_total")
    died = len(family.seen) - 2 * WORKERS
    broken = [f"{died} workers died"] * (died > 0) + failures(answers, kills)
    broken += ["no lost metric was counted"] * (not missing)
    answered = sum(answer.status == 200 for answer in answers)
    figure = f"{answered} requests served, {len(kills)} workers replaced on the full disk; "
    judge(
        "The disk of the metrics is full",
        control,
        f"{figure}{missing:.0f} lost time series counted",
        broken,
    )


@pytest.mark.parametrize("control", [GUARDED, "with a failed start that ends the instance"])
async def test_a_worker_that_cannot_boot_does_not_end_the_others(
    serve: Serve, judge: Judge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, control: str
) -> None:
    loop, answers = asyncio.get_running_loop(), list[Answer]()
    broken_file, folder = tmp_path / "broken", tmp_path / "metrics"
    monkeypatch.setenv(FOLDER, str(folder))
    monkeypatch.setenv(BROKEN, str(broken_file))
    async with serve(control) as service:
        old = await service.processes()
        family = Family(master_of(min(old)))
        async with (
            no_connection_kept(service) as client,
            family.watched(),
            constantly(RATE, lambda _: ask(client), answers),
        ):
            broken_file.touch()
            shutil.rmtree(folder)
            killed_at = loop.time()
            os.kill(min(old), signal.SIGKILL)
            await asyncio.sleep(BROKEN_SECONDS)
            boots, told = len(family.seen - old), await metric(service, "worker_boots_failed")
            broken_file.unlink()
            healed_at = loop.time()
            with suppress(TimeoutError):
                async with asyncio.timeout(HEALED_SECONDS):
                    while len(await _processes(service)) < WORKERS:
                        await asyncio.sleep(0.2)
            back = loop.time() - healed_at
    broken = failures(answers, [killed_at])
    broken += [f"{boots} starts in {BROKEN_SECONDS:.0f} s"] * (
        not LEAST_BOOTS <= boots <= MOST_BOOTS
    )
    broken += ["the metric did not show the failed starts"] * (told < 1)
    broken += late("two workers answered", back, HEALED_SECONDS)
    answered = sum(answer.status == 200 for answer in answers)
    figure = f"{answered} requests served, {boots} starts failed in {BROKEN_SECONDS:.0f} s; "
    judge(
        "New workers cannot start for 10 s",
        control,
        f"{figure}two workers {back:.1f} s after the repair",
        broken,
    )


async def _processes(service: Service) -> set[int]:
    """Return the workers that respond."""
    with suppress(httpx2.HTTPError, AssertionError):
        return await service.processes()
    return set()


@pytest.mark.parametrize("control", [GUARDED, "without restarts of background tasks"])
async def test_background_tasks_are_started_again(
    serve_cached: Serve, judge: Judge, control: str
) -> None:
    async with serve_cached(control, trouble="tasks_fail") as service:
        await service.each_worker(f"/faults/descriptors/{EXHAUSTED_SECONDS}")
        await asyncio.sleep(EXHAUSTED_SECONDS + BACK_SECONDS)
        restarts = await metric(service, "background_task_restarts_total")
        dead = [
            name
            for worker in await service.each_worker("/faults/vitals")
            for name in TASKS - {*worker["names"]}
        ]
        lags = set()
        for _ in range(LOOKS):
            lags.add(await metric(service, "event_loop_lag_seconds"))
            await asyncio.sleep(BACK_SECONDS / LOOKS)
    broken = [f"{len(dead)} tasks have ended, for example: {min(dead, default='')}"] * bool(dead)
    broken += ["the gauges do not change any more"] * (len(lags) == 1)
    broken += [f"only {restarts:.0f} restarts counted"] * (restarts < WORKERS * len(TASKS))
    figure = f"all {WORKERS * len(TASKS)} tasks run again {BACK_SECONDS:.0f} s later; "
    judge("Background tasks fail", control, f"{figure}{restarts:.0f} restarts counted", broken)
