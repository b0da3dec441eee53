"""The jobs of the infrastructure itself."""

from datetime import timedelta

from anyio.to_thread import run_sync
from sqlalchemy import text

from app.infra.jobs.registry import JobContext, job
from app.infra.jobs.settings import JobsSettings
from app.infra.storage import stored_objects
from app.infra.storage.opening import delete_unfinished
from app.infra.storage.settings import StorageSettings

PRUNE_BATCH, MOST_BATCHES = 20_000, 8
PRUNE_LOG = text(
    "DELETE FROM pgqueuer_log WHERE id IN (SELECT id FROM pgqueuer_log "
    "WHERE created < now() - CAST(:age AS interval) ORDER BY created LIMIT :batch) RETURNING id"
)
# No cache entry lives for longer than a day, so none of these is needed any more. They are left
# when CACHE_NAMESPACE changes, or when the cache is turned off.
PRUNE_OUTBOX = text("DELETE FROM cache_outbox WHERE created_at < now() - interval '2 days'")


@job("jobs.prune_log", every=timedelta(minutes=1))
async def prune_log(context: JobContext) -> None:
    """Delete old rows of pgqueuer's log, in batches that are committed one by one."""
    age = timedelta(days=context.resources.settings[JobsSettings].log_days)
    for _ in range(MOST_BATCHES):
        async with context.resources.database.transaction() as session:
            deleted = await session.scalars(PRUNE_LOG, {"age": age, "batch": PRUNE_BATCH})
            if len(deleted.all()) < PRUNE_BATCH:
                return


@job("cache.prune_outbox", every=timedelta(hours=1))
async def prune_outbox(context: JobContext) -> None:
    """Delete rows of the cache's outbox that no process has read."""
    await context.session.execute(PRUNE_OUTBOX)


@job("storage.delete_unreferenced", every=timedelta(minutes=1))
async def delete_unreferenced(context: JobContext) -> None:
    """Delete files that no row needs any more."""
    context.begin_stream()
    await stored_objects.delete_unreferenced(context.resources.database, context.resources.objects)


@job("storage.delete_unfinished", every=timedelta(days=1))
async def delete_unfinished_objects(context: JobContext) -> None:
    await run_sync(delete_unfinished, context.resources.settings[StorageSettings])
