"""Deletes the answers that have expired."""

from datetime import timedelta

from app.features.idempotency import queries
from app.infra.jobs.registry import JobContext, job

MOST_BATCHES = 8


@job("idempotency.delete_expired", every=timedelta(minutes=1))
async def delete_expired(context: JobContext) -> None:
    """Delete them in batches that are committed one by one."""
    for _ in range(MOST_BATCHES):
        async with context.resources.database.transaction() as session:
            if await queries.delete_expired_keys(session) < queries.EXPIRED_BATCH_SIZE:
                return
