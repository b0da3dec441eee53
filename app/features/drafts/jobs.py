"""Publishes drafts on their dates."""

from datetime import timedelta

from app.features.drafts import service
from app.infra.jobs.enqueue import enqueue_missing
from app.infra.jobs.registry import JobContext, job

MOST_AT_ONCE = 10_000  # the others follow a minute later


@job("drafts.publish_due", every=timedelta(minutes=1))
async def publish_due(context: JobContext) -> None:
    """Enqueue a job for each draft that is due, so that one that fails does not stop the others."""
    context.begin_stream()
    added = 0
    async for due in service.due_drafts(context.session):
        added += await enqueue_missing(context.session, "drafts.publish", "draft_id", due)
        if added >= MOST_AT_ONCE:
            return


@job("drafts.publish")
async def publish(context: JobContext, *, draft_id: int) -> None:
    await service.publish_due_draft(context.session, draft_id)
