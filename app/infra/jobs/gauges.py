"""Measures the queue: how many jobs wait, run and are held, and how late the oldest one is."""

import asyncio
from contextlib import suppress

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from app.errors import Unavailable
from app.infra.observability.metrics import JOBS, JOBS_OLDEST

MEASURE_SECONDS = 5.0
# A job that is due later does not wait yet.
MEASURE = text(
    "SELECT count(*) FILTER (WHERE status = 'queued' AND execute_after <= now()) AS waiting, "
    "count(*) FILTER (WHERE status = 'queued' AND execute_after > now()) AS later, "
    "count(*) FILTER (WHERE status = 'picked') AS running, "
    "count(*) FILTER (WHERE status = 'failed') AS held, "
    "coalesce(extract(epoch FROM now() - min(execute_after) "
    "FILTER (WHERE status = 'queued' AND execute_after <= now())), 0)::float AS oldest "
    "FROM pgqueuer"
)


async def measure_queue(engine: AsyncEngine) -> None:
    """Set the gauges every five seconds, until cancelled."""
    autocommit = engine.execution_options(isolation_level="AUTOCOMMIT")
    while True:
        with suppress(Unavailable, DBAPIError):
            async with autocommit.connect() as connection:
                row = (await connection.execute(MEASURE)).one()
            for state in ("waiting", "later", "running", "held"):
                JOBS.labels(state).set(getattr(row, state))
            JOBS_OLDEST.set(row.oldest)
        await asyncio.sleep(MEASURE_SECONDS)
