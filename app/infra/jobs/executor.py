"""Runs one delivery of a job.

The job's changes and its removal from the queue are one transaction. If the job fails, it waits
longer after each delivery, and after the last one it is held until a person retries or discards it.
"""

import asyncio
import logging
import random
import traceback
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

from pgqueuer.models import Job as QueuedJob
from sqlalchemy.exc import DBAPIError

from app.errors import AppError, PermanentError
from app.infra.jobs.arguments import InvalidJob
from app.infra.jobs.enqueue import enqueue
from app.infra.jobs.queue import Claim, ClaimLost, JobQueue, complete
from app.infra.jobs.registry import SCHEDULE, Job, JobContext, find_job
from app.infra.jobs.settings import JobsSettings
from app.infra.observability.diagnostics import check_database_use
from app.infra.observability.metrics import JOB_SECONDS, JOBS_FINISHED, exact
from app.infra.observability.request_context import RequestContext, request_context
from app.infra.observability.settings import DiagnosticsSettings
from app.infra.observability.tracing import job_span
from app.infra.resources import ProcessResources

logger = logging.getLogger(__name__)

LONGEST_DELAY = timedelta(hours=1)
WORKER_DIED = "WorkerDied"
LIBRARIES = "site-packages"


def retry_delay(first: timedelta, delivery: int) -> timedelta:
    """Return the pause after a failed delivery. It doubles each time, and varies by a quarter.

    Without the variation, jobs that failed together would run together again.
    """
    doubled: timedelta = first * 2 ** min(delivery - 1, 30)
    return min(doubled, LONGEST_DELAY) * random.uniform(0.75, 1.25)  # noqa: S311 - jitter


def is_suspect(queued: QueuedJob) -> bool:
    """Return whether the last worker of this job died, so that the job may have killed it."""
    headers: dict[str, Any] = queued.headers or {}
    return bool(queued.attempts > headers.get("failed", 0))


class JobExecutor:
    def __init__(self, resources: ProcessResources, queue: JobQueue) -> None:
        self._resources = resources
        self._queue = queue
        self._settings = resources.settings[JobsSettings]
        self._suspects = asyncio.Lock()

    async def execute(self, queued: QueuedJob) -> None:
        """Run a job that this worker has taken. Call this in a task of its own.

        Suspects run one at a time, so that one of them does not use up the deliveries of others.
        """
        headers: dict[str, Any] = dict(queued.headers or {})
        current = RequestContext(headers.get("request_id", f"job-{queued.id}"), "JOB", "")
        current.path = current.route = queued.entrypoint
        request_context.set(current)
        job = find_job(queued.entrypoint)
        suspected = is_suspect(queued)
        try:
            async with self._suspects if suspected else nullcontext():
                claim = await self._queue.start(queued)
                if suspected and claim.delivery > self._most_deliveries(job):
                    await self._hold(job, claim, WORKER_DIED)
                else:
                    await self._run(job, claim, queued.payload, current)
        except ClaimLost:
            logger.warning(
                "What this worker did for job %s %s is undone: another worker has taken over the "
                "job, or it was discarded, for example with its account",
                *(job.name, queued.id),
            )
        except Exception as error:
            logger.warning(
                "The result of job %s %s could not be stored, so it runs again when its heartbeat "
                "is old: %s",
                *(job.name, queued.id, _describe(error)),
            )

    async def _run(
        self, job: Job, claim: Claim, stored: bytes | None, current: RequestContext
    ) -> None:
        try:
            with job_span(current):
                await self._call(job, claim, stored)
        except ClaimLost:
            raise
        except asyncio.CancelledError as error:
            if not _is_stopping():  # the job awaited something that was cancelled
                await self._fail(job, claim, error)
                return
            await self._queue.release(claim)
            logger.warning("Interrupted job %s %s, which runs again", job.name, claim.job_id)
            raise
        except BaseException as error:  # also SystemExit, which would end the worker
            await self._fail(job, claim, error)
        else:
            _count(job, "done")
            logger.log(
                logging.INFO if job.every is None else logging.DEBUG,
                "job %s %s done",
                *(job.name, claim.job_id),
                extra={
                    "delivery": claim.delivery,
                    "seconds": round(current.elapsed_seconds(), 6),
                    "statements": current.statement_count,
                },
            )
        finally:
            JOB_SECONDS.labels(job.name).observe(exact(current.elapsed_seconds()))
            budget = self._resources.settings[DiagnosticsSettings].statement_budget
            check_database_use(current, budget)

    async def _call(self, job: Job, claim: Claim, stored: bytes | None) -> None:
        limit = job.time_limit or timedelta(seconds=self._settings.time_limit_seconds)
        async with (
            asyncio.timeout(limit.total_seconds()) as timeout,
            self._resources.database.transaction() as session,
        ):
            if (current := request_context.get()) is not None:
                current.deadline = timeout.when()
            context = JobContext(claim.job_id, claim.delivery, session, self._resources)
            await job.call(context, stored)
            if timeout.expired():  # the job has caught its own cancellation
                raise TimeoutError
            await complete(session, claim)
            if job.every is not None:
                await enqueue(session, job.name, delay=job.every, unique=SCHEDULE)

    async def _fail(self, job: Job, claim: Claim, error: BaseException) -> None:
        """Let the job run again later, or hold it. A job with a schedule is not held."""
        logger.error(
            "job %s %s failed (delivery %s) with %s",
            *(job.name, claim.job_id, claim.delivery, _describe(error)),
        )
        is_last = claim.delivery >= self._most_deliveries(job)
        if (is_last or isinstance(error, PermanentError)) and job.every is None:
            await self._hold(job, claim, type(error).__name__)
            return
        first = timedelta(seconds=self._settings.retry_seconds)
        delay = min(retry_delay(first, claim.delivery), job.every or timedelta.max)
        if await self._queue.retry(claim, delay, type(error).__name__):
            _count(job, "failed")

    async def _hold(self, job: Job, claim: Claim, error: str) -> None:
        if await self._queue.hold(claim, error):
            _count(job, "held")
            logger.error(
                "job %s %s is held, because its last delivery ended with %s. Run `python -m "
                "app.jobs` to retry or discard it",
                *(job.name, claim.job_id, error),
            )

    def _most_deliveries(self, job: Job) -> int:
        return job.deliveries or self._settings.deliveries


def _is_stopping() -> bool:
    """Return whether this task is cancelled, and not only something that it awaits."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _count(job: Job, result: str) -> None:
    JOBS_FINISHED.labels(job.name, result).inc()


def _describe(error: BaseException) -> str:
    """Return the type of an error, and our own code that it came through.

    The text of other errors is left out, because it may contain personal data.
    """
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if LIBRARIES not in Path(frame.filename).parts]
    stack = "".join(traceback.format_list(own))
    return f"{type(error).__name__}{_detail(error)}\n{stack}".rstrip()


def _detail(error: BaseException) -> str:
    if isinstance(error, AppError | InvalidJob | PermanentError):
        return f": {error}"
    if isinstance(error, DBAPIError) and error.orig is not None:
        code = getattr(error.orig, "sqlstate", None)
        # Errors of class 42 are about the statement itself: they name tables and columns.
        text = str(error.orig) if str(code).startswith("42") else type(error.orig).__name__
        return f" {code}: {text}"
    return ""
