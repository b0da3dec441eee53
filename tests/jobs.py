"""Runs jobs inside the test's process, one after the other and without waiting."""

from datetime import timedelta

from sqlalchemy import text

from app.infra.jobs.executor import JobExecutor
from app.infra.jobs.queue import JobQueue
from app.infra.jobs.registry import all_jobs
from app.infra.observability.background import detached
from app.infra.resources import ProcessResources


def queue_of(resources: ProcessResources) -> JobQueue:
    """Return the queue as another worker sees it."""
    return JobQueue(resources.database.engine, timedelta(seconds=10))


async def run_jobs(resources: ProcessResources) -> list[str]:
    """Run all jobs that are due, also those that these add. Return their names."""
    queue = queue_of(resources)
    executor = JobExecutor(resources, queue)
    names = [job.name for job in all_jobs()]
    done: list[str] = []
    while jobs := await queue.take(names, 1):
        await detached(executor.execute(jobs[0]))
        done.append(jobs[0].entrypoint)
    return done


async def queued(resources: ProcessResources) -> list[tuple[str, str]]:
    """Return the name and the state of each job, in pgqueuer's words."""
    async with resources.database.read() as session:
        rows = await session.execute(
            text("SELECT entrypoint, status::text FROM pgqueuer ORDER BY id")
        )
        return [(name, status) for name, status in rows]
