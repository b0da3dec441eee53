"""Keeps the URLs of avatars right when the address of the CDN changes."""

from datetime import timedelta

from app.features.avatars import service
from app.infra.jobs.registry import JobContext, job


@job("avatars.correct_urls", every=timedelta(hours=1))
async def correct_urls(context: JobContext) -> None:
    """Change what AVATARS_BASE_URL does not fit, in batches that are committed one by one."""
    context.begin_stream()
    resources, changed = context.resources, service.MOST_URLS
    while changed == service.MOST_URLS:
        async with resources.database.transaction() as session:
            changed = await service.correct_urls(session, resources.settings)
