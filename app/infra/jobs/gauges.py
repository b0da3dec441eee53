"""Measures the queue: how many jobs wait, run and are held, and how late the oldest one is.

It uses the worker's only connection to the queue, which must not wait for the count of a million
jobs. So it stops counting at `MOST`, and reads no more than that from an index.
"""

import asyncio
from contextlib import suppress

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from app.errors import Unavailable
from app.infra.observability.metrics import JOBS, JOBS_OLDEST

MEASURE_SECONDS = 5.0
MOST = 10_000
# A job that is due later does not wait yet. `names` reads one row for each name of a job. Each
# ORDER BY is the order of an index, and PostgreSQL may not sort: otherwise it reads the whole table
# where its statistics say that the table is small. A queue grows faster than they are renewed.
NO_SORT = text("SET LOCAL enable_sort = off")
MEASURE = text(
    """
    WITH RECURSIVE names AS (
        (SELECT entrypoint FROM pgqueuer WHERE status = 'queued' ORDER BY entrypoint LIMIT 1)
        UNION ALL
        SELECT (
            SELECT entrypoint FROM pgqueuer
            WHERE status = 'queued' AND entrypoint > names.entrypoint ORDER BY entrypoint LIMIT 1
        )
        FROM names WHERE entrypoint IS NOT NULL
    ), queued AS (
        SELECT (
            SELECT count(*) FROM (
                SELECT FROM pgqueuer
                WHERE status = 'queued' AND entrypoint = names.entrypoint AND execute_after <= now()
                ORDER BY execute_after LIMIT :most
            ) AS counted
        ) AS waiting, (
            SELECT count(*) FROM (
                SELECT FROM pgqueuer
                WHERE status = 'queued' AND entrypoint = names.entrypoint AND execute_after > now()
                ORDER BY execute_after LIMIT :most
            ) AS counted
        ) AS later, (
            SELECT execute_after FROM pgqueuer
            WHERE status = 'queued' AND entrypoint = names.entrypoint
            ORDER BY execute_after LIMIT 1
        ) AS oldest
        FROM names WHERE entrypoint IS NOT NULL
    ), running AS (
        SELECT FROM pgqueuer WHERE status = 'picked' ORDER BY heartbeat LIMIT :most
    ), held AS (
        SELECT FROM pgqueuer WHERE status = 'failed' ORDER BY dedupe_key LIMIT :most
    )
    SELECT
        least(coalesce(sum(waiting), 0), :most)::int AS waiting,
        least(coalesce(sum(later), 0), :most)::int AS later,
        (SELECT count(*) FROM running) AS running,
        (SELECT count(*) FROM held) AS held,
        greatest(coalesce(extract(epoch FROM now() - min(oldest)), 0), 0)::float AS oldest
    FROM queued
    """
)


async def measure_queue(engine: AsyncEngine) -> None:
    """Set the gauges every five seconds, until cancelled."""
    while True:
        with suppress(Unavailable, DBAPIError):
            async with engine.begin() as connection:
                await connection.execute(NO_SORT)
                row = (await connection.execute(MEASURE, {"most": MOST})).one()
            for state in ("waiting", "later", "running", "held"):
                JOBS.labels(state).set(getattr(row, state))
            JOBS_OLDEST.set(row.oldest)
        await asyncio.sleep(MEASURE_SECONDS)
