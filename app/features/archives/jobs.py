"""Makes archives, and deletes expired archives."""

from datetime import timedelta

from app.features.archives import service
from app.infra.jobs.registry import JobContext, job


@job("archives.build", time_limit=service.TIME_LIMIT, deliveries=3)
async def build(context: JobContext, *, archive_id: int, user_id: int) -> None:
    await service.build_archive(context, archive_id, user_id)


@job("archives.clean_up", every=timedelta(minutes=1))
async def clean_up(context: JobContext) -> None:
    """Delete archives that have expired, and mark those as failed that nobody makes any more."""
    await service.delete_expired_archives(context.session)
    await service.fail_lost_archives(context.session)
