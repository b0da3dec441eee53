"""Makes sure that each job with a schedule is in the queue.

The next run is enqueued in the transaction in which the last one ends. So this only adds the first
run, and removes those of jobs that no longer exist. Several workers may do this at the same time.
"""

import asyncio

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from app.errors import Unavailable
from app.infra.database.sessions import Database
from app.infra.jobs.enqueue import enqueue
from app.infra.jobs.registry import SCHEDULE, all_jobs

CHECK_SECONDS, AFTER_ERROR_SECONDS = 60.0, 2.0
# A run that is held counts too: it stays the only one until it is retried or discarded.
PRESENT = text("SELECT entrypoint FROM pgqueuer WHERE dedupe_key = entrypoint || :suffix")
REMOVE = text(
    "DELETE FROM pgqueuer WHERE dedupe_key = entrypoint || :suffix AND status = 'queued' "
    "AND entrypoint <> ALL(:names)"
)


async def keep_schedules(database: Database) -> None:
    """Check once a minute, until cancelled."""
    while True:
        try:
            await check_schedules(database)
        except (Unavailable, DBAPIError):
            await asyncio.sleep(AFTER_ERROR_SECONDS)
        else:
            await asyncio.sleep(CHECK_SECONDS)


async def check_schedules(database: Database) -> None:
    scheduled = [job.name for job in all_jobs() if job.every is not None]
    suffix = {"suffix": f":{SCHEDULE}"}
    async with database.transaction() as session:
        present = set(await session.scalars(PRESENT, suffix))
        for name in scheduled:
            if name not in present:
                await enqueue(session, name, unique=SCHEDULE)
        if present - set(scheduled):
            await session.execute(REMOVE, {**suffix, "names": scheduled})
