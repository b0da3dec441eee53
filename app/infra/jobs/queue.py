"""What a worker does with the queue. pgqueuer finds the jobs; the rest is here.

A worker that dies leaves its jobs in the state `picked`. When their heartbeat is old, pgqueuer
gives them to another worker. A worker that was only slow may then run the same job at the same
time. So every change of a job names the delivery that makes it (`Claim`), and a delivery that was
replaced changes nothing.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID, uuid4

from pgqueuer.models import Job as QueuedJob
from pgqueuer.queries import EntrypointExecutionParameter
from pgqueuer.types import JobId, QueueEntrypoint, QueueManagerId
from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from app.infra.jobs.driver import queries_of

CLAIMED = (
    "WHERE id = :job_id AND attempts = :delivery AND queue_manager_id = :worker_id "
    "AND status = 'picked' RETURNING id"
)
# `failed` is the number of the last delivery that did not end with its worker.
FAILED = (
    "queue_manager_id = NULL, updated = now(), headers = coalesce(nullif(headers, 'null'), '{}') "
    "|| jsonb_build_object('failed', :delivery, 'error', CAST(:error AS text))"
)
START = text(
    "UPDATE pgqueuer SET attempts = attempts + 1, heartbeat = now() "
    "WHERE id = :job_id AND queue_manager_id = :worker_id AND status = 'picked' RETURNING attempts"
)
COMPLETE = text(f"DELETE FROM pgqueuer {CLAIMED}")
# The lower priority lets jobs run first that have failed less often. Otherwise jobs that fail
# slowly, such as mails to a server that does not answer, would take all places of a worker.
RETRY = text(
    f"UPDATE pgqueuer SET status = 'queued', {FAILED}, priority = priority - 1, "
    f"execute_after = now() + CAST(:delay AS interval) {CLAIMED}"
)
HOLD = text(f"UPDATE pgqueuer SET status = 'failed', {FAILED} {CLAIMED}")
RELEASE = text(
    "UPDATE pgqueuer SET status = 'queued', queue_manager_id = NULL, "
    f"attempts = attempts - 1 {CLAIMED}"
)


@dataclass(frozen=True, slots=True)
class Claim:
    """One delivery of a job to one worker."""

    job_id: int
    delivery: int
    worker_id: UUID

    @property
    def parameters(self) -> dict[str, object]:
        return {"job_id": self.job_id, "delivery": self.delivery, "worker_id": self.worker_id}


class ClaimLost(Exception):
    """The job was discarded, or another worker has it, because this one was thought to be dead."""


async def complete(session: AsyncSession, claim: Claim) -> None:
    """Remove the job in the transaction of its effects, or raise `ClaimLost`."""
    if await session.scalar(COMPLETE, claim.parameters) is None:
        raise ClaimLost


class JobQueue:
    """The queue as one worker sees it. Each statement is a transaction of its own."""

    def __init__(self, engine: AsyncEngine, heartbeat_timeout: timedelta) -> None:
        self._worker_id = uuid4()
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._queries = queries_of(engine)
        self._heartbeat_timeout = heartbeat_timeout

    async def take(self, names: Iterable[str], limit: int) -> list[QueuedJob]:
        """Take jobs that are due, and jobs of workers whose heartbeat is old."""
        anything = EntrypointExecutionParameter(concurrency_limit=0)
        return await self._queries.dequeue(
            batch_size=limit,
            entrypoints={QueueEntrypoint(name): anything for name in names},
            queue_manager_id=QueueManagerId(self._worker_id),
            global_concurrency_limit=None,
            heartbeat_timeout=self._heartbeat_timeout,
        )

    async def start(self, job: QueuedJob) -> Claim:
        """Count this delivery. Raises `ClaimLost`.

        It is counted before the job runs, so that a job that kills its worker is counted too.
        """
        parameters = {"job_id": job.id, "worker_id": self._worker_id}
        async with self._engine.connect() as connection:
            delivery = await connection.scalar(START, parameters)
        if delivery is None:
            raise ClaimLost
        return Claim(job.id, delivery, self._worker_id)

    async def retry(self, claim: Claim, delay: timedelta, error: str) -> bool:
        return await self._change(RETRY, claim, delay=delay, error=error)

    async def hold(self, claim: Claim, error: str) -> bool:
        return await self._change(HOLD, claim, error=error)

    async def release(self, claim: Claim) -> bool:
        """Give the job back at once, as if it had not been delivered."""
        return await self._change(RELEASE, claim)

    async def beat(self, job_ids: Iterable[int]) -> None:
        """Tell the other workers that these jobs are still running here."""
        if ids := list(job_ids):
            await self._queries.update_heartbeat([JobId(one) for one in ids])

    async def _change(self, statement: TextClause, claim: Claim, **values: object) -> bool:
        """Return whether the claim was valid, so that the statement has changed the job."""
        async with self._engine.connect() as connection:
            changed = await connection.scalar(statement, claim.parameters | values)
        return changed is not None
