"""Deletes expired refresh tokens."""

from datetime import timedelta

from app.features.auth import queries
from app.infra.jobs.registry import JobContext, job

MOST_BATCHES = 8


@job("auth.delete_expired_tokens", every=timedelta(minutes=1))
async def delete_expired_tokens(context: JobContext) -> None:
    """Delete them in batches that are committed one by one."""
    for _ in range(MOST_BATCHES):
        async with context.resources.database.transaction() as session:
            if await queries.delete_expired_tokens(session) < queries.EXPIRED_BATCH_SIZE:
                return
