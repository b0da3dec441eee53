"""Measures jobs: `python -m benchmarks.jobs`, about 2 minutes. It writes benchmarks/jobs.md.

It starts a PostgreSQL of its own, and one job worker in its own process. All of them share the
cores of the machine, so compare figures of one run only.
"""

import asyncio
import os
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
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
from dev.database import upgrade
from dev.servers import embedded_servers
from dev.terminal import say

REPORT = Path(__file__).with_name("jobs.md")
JOBS, BATCH = 10_000, 1_000
AT_ONCE, SECONDS, ROUNDS = 32, 3.0, 5
IDLE_SECONDS = 20.0

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


async def commits_a_second(resources: ProcessResources, variant: Variant) -> float:
    """Run transactions, 32 at a time."""
    committed, until = 0, time.monotonic() + SECONDS

    async def client() -> None:
        nonlocal committed
        while time.monotonic() < until:
            async with resources.database.transaction() as session:
                await variant(session)
            committed += 1

    await asyncio.gather(*(client() for _ in range(AT_ONCE)))
    return committed / SECONDS


async def set_trigger(resources: ProcessResources, *, on: bool) -> None:
    """Add or remove the trigger of pgqueuer, which the migration leaves out."""
    install = QueryBuilderEnvironment(NAMES).build_install_query()
    function = install[install.index("CREATE FUNCTION") : install.index("CREATE TRIGGER")]
    trigger = install[install.index("CREATE TRIGGER") :]
    removal = f"DROP TRIGGER {NAMES.trigger} ON pgqueuer", f"DROP FUNCTION {NAMES.function}"
    async with resources.database.engine.begin() as connection:
        for statement in (function, trigger) if on else removal:
            await connection.exec_driver_sql(statement)


async def compare_commits(resources: ProcessResources) -> dict[str, float]:
    """Return the median of the rounds of each variant, which are measured in turns."""
    names = ("a row", "a row and a job", "a row and a job, with pgqueuer's NOTIFY trigger")
    rounds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(ROUNDS):
        say(f"Commits, round {number + 1} of {ROUNDS}")
        rounds[names[0]].append(await commits_a_second(resources, insert))
        rounds[names[1]].append(await commits_a_second(resources, insert_and_enqueue))
        await set_trigger(resources, on=True)
        rounds[names[2]].append(await commits_a_second(resources, insert_and_enqueue))
        await set_trigger(resources, on=False)
        async with resources.database.transaction() as session:
            await session.execute(text("TRUNCATE pgqueuer, pgqueuer_log, benchmark_rows"))
    return {name: median(found) for name, found in rounds.items()}


async def drain(resources: ProcessResources) -> float:
    """Return how many jobs a worker runs in a second."""
    async with resources.database.transaction() as session:
        for first in range(0, JOBS, BATCH):
            numbers = range(first, first + BATCH)
            await enqueue_missing(session, "benchmarks.work", "number", numbers)
    say(f"Running {JOBS:,} jobs")
    started = time.monotonic()
    async with running_jobs(resources, JOBS_APPLICATION_NAME, is_ready):
        while await count(resources):  # noqa: ASYNC110 - the queue sends no event
            await asyncio.sleep(0.1)
        seconds = time.monotonic() - started
    async with resources.database.read() as session:
        assert await session.scalar(text("SELECT count(*) FROM benchmark_rows")) == JOBS
    return JOBS / seconds


async def count(resources: ProcessResources) -> int:
    async with resources.database.read() as session:
        return int((await session.execute(WAITING)).scalar_one())


async def is_ready() -> bool:
    return True


async def idle(resources: ProcessResources) -> Idle:
    """Measure for a while, in which nothing happens. CPU is that of this process alone."""

    async def transactions() -> int:
        async with resources.database.read() as session:
            await session.execute(text("SELECT pg_stat_clear_snapshot()"))
            return int((await session.execute(TRANSACTIONS)).scalar_one())

    await asyncio.sleep(2)  # until the statistics have arrived
    before, cpu = await transactions(), time.process_time()
    await asyncio.sleep(IDLE_SECONDS)
    used = time.process_time() - cpu
    return Idle((await transactions() - before) / IDLE_SECONDS, used / IDLE_SECONDS * 1_000)


async def measure(settings: Settings) -> list[str]:
    load_jobs(features)
    async with open_resources(settings.sections(), JOBS_APPLICATION_NAME) as resources:
        async with resources.database.transaction() as session:
            await session.execute(text("CREATE TABLE benchmark_rows (number bigint)"))
        commits = await compare_commits(resources)
        jobs = await drain(resources)
    # New connections: PostgreSQL counts the last transactions of a connection when it is closed.
    async with open_resources(settings.sections(), JOBS_APPLICATION_NAME) as resources:
        say(f"Nothing to do, for {2 * IDLE_SECONDS:.0f} s")
        without = await idle(resources)
        async with running_jobs(resources, JOBS_APPLICATION_NAME, is_ready):
            await asyncio.sleep(3)  # until the jobs with a schedule have run
            with_worker = await idle(resources)
    return rows(commits, jobs, without, with_worker)


def rows(commits: dict[str, float], jobs: float, without: Idle, worker: Idle) -> list[str]:
    base = next(iter(commits.values()))
    transactions = worker.transactions - without.transactions
    cpu = worker.cpu_milliseconds - without.cpu_milliseconds
    return [
        "| what a transaction writes | commits a second | of the first |",
        "|---|---|---|",
        *(f"| {name} | {rate:,.0f} | {rate / base:.0%} |" for name, rate in commits.items()),
        "",
        "| one worker | |",
        "|---|---|",
        f"| {JOBS:,} jobs, each of which writes a row | {jobs:,.0f} jobs a second |",
        f"| idle: transactions for jobs | {transactions:.1f} a second |",
        f"| idle: CPU of the worker for jobs | {cpu:.1f} ms a second |",
    ]


def write_report(lines: Sequence[str]) -> None:
    head = (
        "# Jobs\n\n`python -m benchmarks.jobs` writes this page. PostgreSQL and one process with "
        f"{AT_ONCE} transactions at a time, and then with a job worker, share {os.cpu_count()} "
        f"cores.\n\n"
    )
    REPORT.write_text(head + "\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
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
        lines = asyncio.run(measure(settings))
    write_report(lines)
    say("\n".join(lines))


if __name__ == "__main__":
    main()
