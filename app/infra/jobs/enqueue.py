"""Enqueues jobs in the transaction of a request."""

from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncSession

from app.infra.database.sessions import require_transaction
from app.infra.jobs.driver import queries_in
from app.infra.jobs.registry import find_job
from app.infra.observability.request_context import request_context


async def enqueue(
    session: AsyncSession,
    name: str,
    *,
    delay: timedelta | None = None,
    unique: str | int | None = None,
    **arguments: object,
) -> int | None:
    """Add a job to the queue in the transaction of `session`, and return its id.

        await enqueue(session, "drafts.publish", draft_id=draft.id)

    The job runs after the commit, and `delay` after it if there is one. After a rollback, there is
    no job. Keys that are `unique` are those of one job name. While a job with this key waits or
    runs, no other one is added, and this returns None.
    Raises `InvalidJob` if there is no such job, or if the arguments do not fit.
    """
    require_transaction(session)
    payload = find_job(name).arguments.to_json(arguments)
    current = request_context.get()
    [job_id] = await queries_in(session).enqueue(
        name,
        payload,
        execute_after=delay,
        dedupe_key=None if unique is None else f"{name}:{unique}",
        headers={} if current is None else {"request_id": current.request_id},
        on_conflict="skip",
    )
    return job_id
