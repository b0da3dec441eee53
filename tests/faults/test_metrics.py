"""The workers together count what the clients count, whatever happens to the workers."""

import asyncio
import os
import signal
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from graceful_gunicorn.multiprocess_metrics import FOLDER
from tests.faults.author import Author, sign_up
from tests.faults.conftest import Judge, Serve
from tests.faults.counters import Counters
from tests.faults.load import NO_ANSWER, Answer, constantly, late, timed, unexpected
from tests.faults.postgres import Backend
from tests.faults.service import Service, master_of
from tests.faults.verdicts import GUARDED
from tests.faults.wire import Wire

pytestmark = pytest.mark.faults

RATE, KILLS, QUIET_SECONDS, BACK_SECONDS = 80, 5, 1.0, 3.0
DYING_SECONDS = 0.1  # until the kernel has closed the connections of a killed process
POSTS, HOLD = "/v1/posts", "/faults/hold"
CONNECTIONS = 8
# Enough requests for several generations of workers, because a recycled worker waits for another.
RECYCLING, RECYCLED_REQUESTS = "--max-requests 300 --max-requests-jitter 60", 40_000
RELOADS, REQUESTS = 2, 500


@dataclass(frozen=True)
class Kill:
    """When a worker was killed, and after how long two workers responded again."""

    at: float
    back_seconds: float

    def may_have_cut(self, answer: Answer) -> bool:
        """Whether the request was running when the worker was killed."""
        return answer.sent_at - DYING_SECONDS <= self.at <= answer.sent_at + answer.seconds


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the workers' metrics."""
    monkeypatch.setenv(FOLDER, str(tmp_path / "metrics"))
    return tmp_path / "metrics"


async def until_replaced(service: Service, old: set[int]) -> None:
    """Wait until all old workers have exited and were replaced."""
    async with asyncio.timeout(60):
        while (
            any(Path(f"/proc/{worker}").exists() for worker in old)
            or await service.processes() & old
        ):
            await asyncio.sleep(0.2)


async def kill_one(service: Service) -> Kill:
    """Kill a worker, and wait until there are two again."""
    loop = asyncio.get_running_loop()
    victim = await service.oldest_process()
    killed_at = loop.time()
    os.kill(victim, signal.SIGKILL)
    assert victim not in await service.processes()
    return Kill(killed_at, loop.time() - killed_at)


async def ask(service: Service, times: int) -> Counter[int]:
    """Send requests on several connections until `times` were answered. Count them by status."""
    statuses: Counter[int] = Counter()

    async def ask_on(wire: Wire) -> None:
        while statuses.total() - statuses[NO_ANSWER] < times:
            statuses[(await wire.get(POSTS)).status] += 1
        wire.close()

    await asyncio.gather(*(ask_on(Wire(service.address)) for _ in range(CONNECTIONS)))
    return statuses


async def kill_in_turn(service: Service) -> list[Kill]:
    """Kill workers, one after the other, with a pause after each recovery."""
    kills = []
    for _ in range(KILLS):
        await asyncio.sleep(QUIET_SECONDS)
        kills.append(await kill_one(service))
    await asyncio.sleep(QUIET_SECONDS)
    return kills


def mixed(author: Author) -> Callable[[int], Awaitable[Answer]]:
    """Return a function that requests posts, and sometimes a slow route that a kill can cut off."""

    async def send(number: int) -> Answer:
        if number % 10 == 5:
            return await timed(author.client, "GET", f"{HOLD}/0.1")
        return await author.send(number)

    return send


@pytest.mark.parametrize("control", [GUARDED, "with the metrics files of replaced workers deleted"])
async def test_only_the_running_requests_of_a_killed_worker_are_lost(
    backend: Backend, serve: Serve, judge: Judge, folder: Path, control: str
) -> None:
    answers: list[Answer] = []
    async with serve(control) as service:
        author, counters = await sign_up(service.client), Counters(service.client, folder)
        before = await counters.requests(POSTS, HOLD)
        async with counters.watched(), constantly(RATE, mixed(author), answers):
            kills = await kill_in_turn(service)
        counted = await counters.requests(POSTS, HOLD) - before
        broken = await author.broken_promises(backend)
        cut = [answer for answer in answers if answer.status == NO_ANSWER]
        broken += counters.broken(counted, len(answers) - len(cut), len(cut))
    idle = [answer for answer in cut if not any(kill.may_have_cut(answer) for kill in kills)]
    broken += [
        f"{len(idle)} requests failed that were not running when a worker was killed"
    ] * bool(idle)
    broken += unexpected(answers, (200, 201, NO_ANSWER))
    back = max(kill.back_seconds for kill in kills)
    broken += late("a new worker answered", back, BACK_SECONDS)
    figure = (
        f"{len(answers)} requests, {len(cut)} of them cut off, {counted} counted by the metrics; a "
        f"new worker answered within {back:.1f} s"
    )
    judge(
        "Workers are killed while metrics are scraped",
        control,
        f"{figure}; {counters.figure}",
        broken,
    )


@pytest.mark.parametrize(
    "control",
    [
        GUARDED,
        "with the metrics files of replaced workers deleted",
        "with new metrics files for each process",
    ],
)
async def test_workers_that_are_recycled_leave_their_counts_and_nothing_else(
    serve: Serve,
    judge: Judge,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    control: str,
) -> None:
    monkeypatch.setenv("GUNICORN_CMD_ARGS", RECYCLING)
    async with serve(control) as service:
        counters = Counters(service.client, folder)
        async with counters.watched():
            statuses = await ask(service, RECYCLED_REQUESTS)
        counted = await counters.requests(POSTS)
    cut = statuses.pop(NO_ANSWER, 0)
    broken = counters.broken(counted, statuses.total(), cut)
    broken += [f"unexpected statuses {set(statuses)}"] * (set(statuses) != {200})
    figure = (
        f"{statuses.total()} requests served, {cut} cut off, {counted} counted by the metrics; "
        f"{counters.figure}"
    )
    judge("Workers are recycled while metrics are scraped", control, figure, broken)


@pytest.mark.parametrize("control", [GUARDED, "with the metrics files of replaced workers deleted"])
async def test_nothing_is_lost_in_a_reload(
    serve: Serve, judge: Judge, folder: Path, control: str
) -> None:
    async with serve(control) as service:
        counters = Counters(service.client, folder)
        async with counters.watched():
            answered = (await ask(service, REQUESTS))[200]
            for _ in range(RELOADS):
                old = await service.processes()
                os.kill(master_of(min(old)), signal.SIGHUP)
                await until_replaced(service, old)
                answered += (await ask(service, REQUESTS))[200]
        counted = await counters.requests(POSTS)
        broken = counters.broken(counted, answered, cut=0)
    figure = (
        f"{RELOADS} reloads; {answered} requests served, {counted} counted by the metrics; "
        f"{counters.figure}"
    )
    judge("Workers are reloaded (SIGHUP) while metrics are scraped", control, figure, broken)
