"""Enqueues jobs in the transaction of a request."""

from collections.abc import Iterable
from datetime import timedelta

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from app.infra.database.sessions import require_transaction
from app.infra.jobs.driver import queries_in
from app.infra.jobs.registry import find_job
from app.infra.observability.request_context import request_context

HELD = text("SELECT dedupe_key FROM pgqueuer WHERE status = 'failed' AND dedupe_key = ANY(:keys)")


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


async def enqueue_missing(
    session: AsyncSession, name: str, argument: str, values: Iterable[int]
) -> int:
    """Add a job for each value of its only argument, in two statements. Return how many.

        await enqueue_missing(session, "drafts.publish", "draft_id", due)

    A value whose job waits, runs or is held gets no other one. So a job with a schedule can call
    this again and again.
    """
    require_transaction(session)
    arguments = find_job(name).arguments
    keys = {f"{name}:{value}": value for value in values}
    held = set(await session.scalars(HELD, {"keys": list(keys)}))
    missing = [key for key in keys if key not in held]
    if not missing:
        return 0
    added = await queries_in(session).enqueue(
        [name] * len(missing),
        [arguments.to_json({argument: keys[key]}) for key in missing],
        [0] * len(missing),
        dedupe_key=list(missing),
        headers=[{} for _ in missing],
        on_conflict="skip",
    )
    return sum(job_id is not None for job_id in added)
