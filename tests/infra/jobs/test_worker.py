"""A worker takes jobs, and gives them back when it stops."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from sqlalchemy import text

from app.infra.database.connection_budget import JOBS_APPLICATION_NAME
from app.infra.database.engine import open_engine
from app.infra.database.settings import DatabaseSettings
from app.infra.jobs import gauges
from app.infra.jobs.enqueue import enqueue
from app.infra.jobs.gauges import measure_queue
from app.infra.jobs.settings import JobsSettings
from app.infra.jobs.worker import JobWorker, running_jobs
from app.infra.observability.background import in_background
from app.infra.observability.metrics import JOBS, JOBS_OLDEST
from app.infra.resources import ProcessResources
from tests.infra.jobs.conftest import Body
from tests.sample.notes import Note

TERMINATE = text(
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = :name"
)

# As if a worker had died while it ran all jobs that are in the queue.
DIED = text(
    "UPDATE pgqueuer SET status = 'picked', attempts = 1, queue_manager_id = gen_random_uuid(), "
    "heartbeat = now() - interval '1 hour'"
)

MANY = text(
    "INSERT INTO pgqueuer (priority, status, entrypoint) "
    "SELECT -1, 'queued', 'notes.refuse' FROM generate_series(1, 100000)"
)
MANY_LATER = text(
    "INSERT INTO pgqueuer (priority, status, entrypoint, execute_after) "
    "SELECT 0, 'queued', 'notes.fail', now() + interval '1 day' FROM generate_series(1, 100000)"
)
# A queue that was long once, and then short: PostgreSQL expects few rows, with these names.
MISLEADING_STATISTICS = (
    MANY,
    MANY_LATER,
    text("ANALYZE pgqueuer"),
    text("DELETE FROM pgqueuer"),
    text("ANALYZE pgqueuer"),
)

COUNT_NOW = text("SELECT pg_stat_force_next_flush()")
ROWS_READ = text(
    "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_user_tables WHERE relname = 'pgqueuer'"
)


@asynccontextmanager
async def worker(resources: ProcessResources, **settings: object) -> AsyncIterator[JobWorker]:
    """Run a worker inside the test's process, with other settings."""
    changed = resources.settings[JobsSettings].model_copy(
        update={"poll_seconds": 0.05, "stop_seconds": 60, **settings}
    )
    sections: dict[Any, Any] = resources.settings._sections
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sections, JobsSettings, changed)

        async def ready() -> bool:
            return True

        async with running_jobs(resources, JOBS_APPLICATION_NAME, ready) as running:
            yield running


async def add(resources: ProcessResources, name: str, note: Note) -> None:
    async with resources.database.transaction() as session:
        await enqueue(session, name, note_id=note.id)


async def jobs(resources: ProcessResources) -> list[Any]:
    """Return the jobs without a schedule."""
    async with resources.database.read() as session:
        rows = await session.execute(
            text(
                "SELECT status::text, attempts FROM pgqueuer WHERE entrypoint LIKE 'notes.%' "
                "AND entrypoint <> 'notes.tick'"
            )
        )
        return sorted(tuple(row) for row in rows)


async def becomes(resources: ProcessResources, expected: list[Any]) -> None:
    async with asyncio.timeout(60):
        while await jobs(resources) != expected:
            await asyncio.sleep(0.02)


async def test_worker_runs_what_is_enqueued_while_it_runs(
    resources: ProcessResources, note: Note, body: Body
) -> None:
    async with worker(resources, concurrency=1):
        for _ in range(20):
            await add(resources, "notes.edit", note)
        await becomes(resources, [])
    assert await body.read() == "Body" + 20 * "!"


async def test_worker_that_stops_lets_a_job_end(
    resources: ProcessResources, note: Note, body: Body
) -> None:
    async with worker(resources), resources.database.transaction() as session:
        await session.execute(text("SELECT FROM test_notes FOR UPDATE"))
        await add(resources, "notes.edit", note)
        await becomes(resources, [("picked", 1)])
    # The row was unlocked, and then the worker stopped at once.
    assert await body.read() == "Body!"


async def test_worker_that_stops_gives_back_a_job_that_does_not_end(
    resources: ProcessResources, note: Note, body: Body
) -> None:
    async with worker(resources, stop_seconds=0.05):
        await add(resources, "notes.wait", note)
        await becomes(resources, [("picked", 1)])
    assert await jobs(resources) == [("queued", 0)]
    assert await body.read() == "Body"


async def test_worker_goes_on_after_all_its_connections_were_closed(
    resources: ProcessResources, note: Note, body: Body
) -> None:
    async with worker(resources):
        await add(resources, "notes.edit", note)
        await becomes(resources, [])
        async with resources.database.transaction() as session:
            await session.execute(TERMINATE, {"name": JOBS_APPLICATION_NAME})
        await add(resources, "notes.edit", note)
        await becomes(resources, [])
    assert await body.read() == "Body!!"


async def test_worker_runs_no_more_jobs_at_once_than_it_may(resources: ProcessResources) -> None:
    async with resources.database.transaction() as session:
        for _ in range(5):
            await enqueue(session, "notes.sleep")
    some = [("picked", 1)] * 2 + [("queued", 0)] * 3
    async with worker(resources, concurrency=2, stop_seconds=0.05):
        await becomes(resources, some)
        await asyncio.sleep(0.3)  # it polls meanwhile
        await becomes(resources, some)
    assert await jobs(resources) == [("queued", 0)] * 5


async def test_jobs_whose_worker_died_let_other_jobs_run(
    resources: ProcessResources, note: Note, body: Body
) -> None:
    """They run one at a time, and the first of them takes for ever."""
    async with resources.database.transaction() as session:
        for _ in range(20):
            await enqueue(session, "notes.sleep")
        await session.execute(DIED)
    async with worker(resources, concurrency=2, stop_seconds=0.05):
        for _ in range(3):
            await add(resources, "notes.edit", note)
        await becomes(resources, [("picked", 1)] * 19 + [("picked", 2)])
    assert await body.read() == "Body!!!"


async def test_jobs_whose_worker_died_run_no_more_at_once_than_others(
    resources: ProcessResources,
) -> None:
    async with resources.database.transaction() as session:
        for _ in range(6):
            await enqueue(session, "notes.sleep")
        await session.execute(DIED)
        for _ in range(4):
            await enqueue(session, "notes.sleep")
    some = [("picked", 1)] * 7 + [("picked", 2)] + [("queued", 0)] * 2
    async with worker(resources, concurrency=3, stop_seconds=0.05):
        await becomes(resources, some)
        await asyncio.sleep(0.3)  # it polls meanwhile
        await becomes(resources, some)


async def test_gauges_show_the_queue(resources: ProcessResources, note: Note) -> None:
    for _ in range(3):
        await add(resources, "notes.edit", note)
    async with resources.database.transaction() as session:
        await session.execute(
            text(
                "UPDATE pgqueuer SET execute_after = now() - interval '90 s', "
                "status = CASE id WHEN 1 THEN 'failed' ELSE status END"
            )
        )
    JOBS_OLDEST.set(0)
    async with in_background(lambda: measure_queue(resources.database.engine), "job gauges"):
        async with asyncio.timeout(60):
            while JOBS_OLDEST._value.get() == 0:
                await asyncio.sleep(0.02)
    assert [JOBS.labels(state)._value.get() for state in ("waiting", "held")] == [2, 1]
    assert JOBS_OLDEST._value.get() >= 90


@pytest.mark.slow
async def test_worker_goes_on_while_hundreds_of_thousands_of_jobs_are_counted(
    resources: ProcessResources, note: Note, body: Body, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gauges, "MEASURE_SECONDS", 0.01)
    async with resources.database.transaction() as session:
        await session.execute(MANY)
        await session.execute(MANY_LATER)
    JOBS.labels("waiting").set(0)
    async with worker(resources, concurrency=2):
        await add(resources, "notes.edit", note)
        async with asyncio.timeout(60):
            while JOBS.labels("waiting")._value.get() == 0:
                await asyncio.sleep(0.02)
            while await body.read() != "Body!":
                await asyncio.sleep(0.02)
    assert JOBS.labels("waiting")._value.get() == gauges.MOST
    assert JOBS.labels("later")._value.get() == gauges.MOST


@pytest.mark.slow
async def test_counting_reads_few_rows_even_if_statistics_are_misleading(
    resources: ProcessResources,
) -> None:
    engine = resources.database.engine.execution_options(isolation_level="AUTOCOMMIT")
    async with engine.connect() as connection:
        for statement in (*MISLEADING_STATISTICS, MANY, MANY_LATER):
            await connection.execute(statement)
        await connection.execute(COUNT_NOW)
        before = await connection.scalar(ROWS_READ)
        JOBS.labels("waiting").set(0)
        counting = open_engine(resources.settings[DatabaseSettings], "counting")
        async with in_background(lambda: measure_queue(counting), "job gauges"):
            async with asyncio.timeout(60):
                while JOBS.labels("waiting")._value.get() == 0:
                    await asyncio.sleep(0.02)
        await counting.dispose()
        async with asyncio.timeout(60):  # PostgreSQL counts when the connection has ended
            while (after := await connection.scalar(ROWS_READ)) == before:
                await asyncio.sleep(0.02)
    assert after - before <= 4 * gauges.MOST
