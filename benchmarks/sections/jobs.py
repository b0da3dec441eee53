"""Jobs: what it costs to enqueue one, how many a worker runs, and what it does when it is idle."""

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median
from typing import NamedTuple

from pgqueuer.adapters.persistence.qb import QueryBuilderEnvironment
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from app import features
from app.infra.database.connection_budget import JOBS_APPLICATION_NAME
from app.infra.jobs.driver import NAMES
from app.infra.jobs.enqueue import enqueue, enqueue_missing
from app.infra.jobs.registry import JobContext, job, load_jobs
from app.infra.jobs.worker import running_jobs
from app.infra.lifespan import open_resources
from app.infra.resources import ProcessResources
from app.settings import Settings
from benchmarks.section import Data, number, share, table
from benchmarks.world import Effort, World
from dev.database import upgrade
from dev.servers import embedded_servers
from dev.terminal import say

ORDER = 10
TITLE = "Jobs"
IN_QUICK = False

JOBS, BATCH = 10_000, 1_000
AT_ONCE = 32
IDLE_SECONDS = 10.0

INSERT = text("INSERT INTO benchmark_rows VALUES (:number)")
TRANSACTIONS = text(
    "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = 'app'"
)
WAITING = text("SELECT count(*) FROM pgqueuer WHERE entrypoint = 'benchmarks.work'")

Variant = Callable[[AsyncSession], Awaitable[None]]


@job("benchmarks.work")
async def work(context: JobContext, *, number: int) -> None:
    """Write one row."""
    await context.session.execute(INSERT, {"number": number})


class Idle(NamedTuple):
    """What happens in a second."""

    transactions: float
    cpu_milliseconds: float


async def insert(session: AsyncSession) -> None:
    await session.execute(INSERT, {"number": 1})


async def insert_and_enqueue(session: AsyncSession) -> None:
    await session.execute(INSERT, {"number": 1})
    await enqueue(session, "benchmarks.work", number=1)


async def commits_a_second(resources: ProcessResources, variant: Variant, seconds: float) -> float:
    """Run transactions, 32 at a time."""
    committed, until = 0, time.monotonic() + seconds

    async def client() -> None:
        nonlocal committed
        while time.monotonic() < until:
            async with resources.database.transaction() as session:
                await variant(session)
            committed += 1

    await asyncio.gather(*(client() for _ in range(AT_ONCE)))
    return committed / seconds


async def set_trigger(resources: ProcessResources, *, on: bool) -> None:
    """Add or remove the trigger of pgqueuer, which the migration leaves out."""
    install = QueryBuilderEnvironment(NAMES).build_install_query()
    function = install[install.index("CREATE FUNCTION") : install.index("CREATE TRIGGER")]
    trigger = install[install.index("CREATE TRIGGER") :]
    removal = f"DROP TRIGGER {NAMES.trigger} ON pgqueuer", f"DROP FUNCTION {NAMES.function}"
    async with resources.database.engine.begin() as connection:
        for statement in (function, trigger) if on else removal:
            await connection.exec_driver_sql(statement)


async def compare_commits(resources: ProcessResources, effort: Effort) -> dict[str, float]:
    """Return the median of the rounds of each variant, which are measured in turns."""
    names = ("a row", "a row and a job", "a row and a job, with pgqueuer's NOTIFY trigger")
    rounds: dict[str, list[float]] = {name: [] for name in names}
    for round_ in range(effort.rounds):
        say(f"Commits, round {round_ + 1} of {effort.rounds}")
        rounds[names[0]].append(await commits_a_second(resources, insert, effort.seconds))
        rounds[names[1]].append(
            await commits_a_second(resources, insert_and_enqueue, effort.seconds)
        )
        await set_trigger(resources, on=True)
        rounds[names[2]].append(
            await commits_a_second(resources, insert_and_enqueue, effort.seconds)
        )
        await set_trigger(resources, on=False)
        async with resources.database.transaction() as session:
            await session.execute(text("TRUNCATE pgqueuer, pgqueuer_log, benchmark_rows"))
    return {name: median(found) for name, found in rounds.items()}


async def drain(resources: ProcessResources, count: int) -> float:
    """Return how many jobs a worker runs in a second."""
    async with resources.database.transaction() as session:
        for first in range(0, count, BATCH):
            numbers = range(first, first + BATCH)
            await enqueue_missing(session, "benchmarks.work", "number", numbers)
    say(f"Running {count:,} jobs")
    started = time.monotonic()
    async with running_jobs(resources, JOBS_APPLICATION_NAME, is_ready):
        while await waiting(resources):  # noqa: ASYNC110 - the queue sends no event
            await asyncio.sleep(0.1)
        seconds = time.monotonic() - started
    async with resources.database.read() as session:
        assert await session.scalar(text("SELECT count(*) FROM benchmark_rows")) == count
    return count / seconds


async def waiting(resources: ProcessResources) -> int:
    async with resources.database.read() as session:
        return int((await session.execute(WAITING)).scalar_one())


async def is_ready() -> bool:
    return True


async def idle(resources: ProcessResources, seconds: float) -> Idle:
    """Measure for a while, in which nothing happens. CPU is that of this process alone."""

    async def transactions() -> int:
        async with resources.database.read() as session:
            await session.execute(text("SELECT pg_stat_clear_snapshot()"))
            return int((await session.execute(TRANSACTIONS)).scalar_one())

    await asyncio.sleep(2)  # until the statistics have arrived
    before, cpu = await transactions(), time.process_time()
    await asyncio.sleep(seconds)
    used = time.process_time() - cpu
    return Idle((await transactions() - before) / seconds, used / seconds * 1_000)


async def measure_all(settings: Settings, effort: Effort) -> Data:
    load_jobs(features)
    async with open_resources(settings.sections(), JOBS_APPLICATION_NAME) as resources:
        async with resources.database.transaction() as session:
            await session.execute(text("CREATE TABLE benchmark_rows (number bigint)"))
        commits = await compare_commits(resources, effort)
        count = JOBS // 10 if effort.is_quick else JOBS
        jobs = await drain(resources, count)
    # New connections: PostgreSQL counts the last transactions of a connection when it is closed.
    seconds = 3.0 if effort.is_quick else IDLE_SECONDS
    async with open_resources(settings.sections(), JOBS_APPLICATION_NAME) as resources:
        say(f"Nothing to do, for {2 * seconds:.0f} s")
        without = await idle(resources, seconds)
        async with running_jobs(resources, JOBS_APPLICATION_NAME, is_ready):
            await asyncio.sleep(3)  # until the jobs with a schedule have run
            with_worker = await idle(resources, seconds)
    return {
        "commits": commits,
        "count": count,
        "jobs": jobs,
        "idle_transactions": with_worker.transactions - without.transactions,
        "idle_cpu": with_worker.cpu_milliseconds - without.cpu_milliseconds,
    }


def measure(world: World) -> Data:
    with tempfile.TemporaryDirectory() as folder, embedded_servers(Path(folder)) as servers:
        upgrade(servers)
        settings = Settings.model_validate(
            {
                "database": {"url": SecretStr(servers.database_url), "pool_size": AT_ONCE},
                "valkey": {"url": SecretStr(servers.valkey_url)},
                "cache": {"enabled": False},  # it polls the database too
                "log": {"level": "WARNING"},
            }
        )
        return asyncio.run(measure_all(settings, world.effort))


def figures(data: Data) -> dict[str, str]:
    insert, enqueue_, _ = data["commits"].values()
    return {
        "jobs.insert.rate": number(insert),
        "jobs.enqueue.rate": number(enqueue_),
        "jobs.enqueue.share": share(enqueue_ / insert),
        "jobs.worker.rate": number(data["jobs"]),
        "jobs.idle.cpu": f"{number(data['idle_cpu'])} ms",
    }


def report(data: Data) -> str:
    base = next(iter(data["commits"].values()))
    commits = [[name, number(rate), share(rate / base)] for name, rate in data["commits"].items()]
    worker = [
        [
            f"{data['count']:,} jobs, and each inserts one row",
            f"{number(data['jobs'])} a second",
        ],
        ["idle: transactions for jobs", f"{number(data['idle_transactions'])} a second"],
        ["idle: CPU of the worker for jobs", f"{number(data['idle_cpu'])} ms a second"],
    ]
    head = ("what a transaction writes", "commits a second", "of the first")
    parts = [INTRODUCTION, table(head, commits), table(("one worker", ""), worker)]
    return "\n\n".join(parts)


INTRODUCTION = f"""One process with {AT_ONCE} transactions at a time, and then with a job worker.
Its PostgreSQL waits for the disk at each commit, unlike in the other sections."""
