"""Deletes expired refresh tokens."""

from datetime import timedelta

from app.features.auth import queries
from app.infra.jobs.registry import JobContext, job


@job("auth.delete_expired_tokens", every=timedelta(minutes=10))
async def delete_expired_tokens(context: JobContext) -> None:
    await queries.delete_expired_tokens(context.session)
