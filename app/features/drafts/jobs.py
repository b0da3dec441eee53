"""Publishes drafts on their dates."""

from datetime import timedelta

from app.features.drafts import service
from app.infra.jobs.enqueue import enqueue_missing
from app.infra.jobs.registry import JobContext, job


@job("drafts.publish_due", every=timedelta(minutes=1))
async def publish_due(context: JobContext) -> None:
    """Enqueue a job for each draft that is due, so that one that fails does not stop the others."""
    due = await service.list_due_drafts(context.session)
    await enqueue_missing(context.session, "drafts.publish", "draft_id", due)


@job("drafts.publish")
async def publish(context: JobContext, *, draft_id: int) -> None:
    await service.publish_due_draft(context.session, draft_id)
