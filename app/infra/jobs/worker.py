"""Takes jobs from the queue and runs some of them at the same time, until the process ends."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from functools import partial

from sqlalchemy.exc import DBAPIError

from app.errors import Unavailable
from app.infra.database.engine import open_engine
from app.infra.database.settings import DatabaseSettings
from app.infra.jobs.executor import JobExecutor, is_suspect
from app.infra.jobs.gauges import measure_queue
from app.infra.jobs.queue import JobQueue
from app.infra.jobs.registry import all_jobs
from app.infra.jobs.schedules import keep_schedules
from app.infra.jobs.settings import JobsSettings
from app.infra.observability.background import detached, in_background
from app.infra.observability.repeat_filter import RepeatFilter
from app.infra.resources import ProcessResources

logger = logging.getLogger(__name__)
logger.addFilter(RepeatFilter())  # while the database is down, every poll fails

HEARTBEATS_PER_TIMEOUT = 4
AFTER_ERROR_SECONDS = 1.0
QUEUE_POOL_SECONDS = 30.0
CANCELLING_SECONDS = 5.0  # for rolling back, and for giving the jobs back

Ready = Callable[[], Awaitable[bool]]


class JobWorker:
    """Runs at most JOBS_CONCURRENCY jobs at the same time."""

    def __init__(self, resources: ProcessResources, queue: JobQueue, is_ready: Ready) -> None:
        self._settings = resources.settings[JobsSettings]
        self._executor = JobExecutor(resources, queue)
        self._queue = queue
        self._is_ready = is_ready
        self._running: dict[int, asyncio.Task[None]] = {}
        self._suspects: set[int] = set()  # those of the running ones that wait for each other
        self._taking = asyncio.Lock()
        self._is_stopping = False

    async def poll(self) -> None:
        """Take and start jobs until cancelled. It waits until the schema is up to date."""
        while not await self._is_ready():  # noqa: ASYNC110 - the database sends no event
            await asyncio.sleep(AFTER_ERROR_SECONDS)
        logger.info("This worker takes jobs: %s at the same time", self._settings.concurrency)
        while True:
            try:
                found_all = await self._take()
            except (Unavailable, DBAPIError) as error:
                logger.warning("Jobs could not be taken: %s", type(error).__name__)
                await asyncio.sleep(AFTER_ERROR_SECONDS)
                continue
            if found_all:
                await asyncio.sleep(self._settings.poll_seconds)
            elif not self._free_slots():
                await asyncio.wait(self._running.values(), return_when=asyncio.FIRST_COMPLETED)

    async def beat(self) -> None:
        """Keep the jobs that run here, until cancelled."""
        while True:
            with suppress(Unavailable, DBAPIError):
                await self._queue.beat(self._running)
            await asyncio.sleep(self._settings.heartbeat_timeout_seconds / HEARTBEATS_PER_TIMEOUT)

    async def stop(self) -> None:
        """Take no more jobs, and wait JOBS_STOP_SECONDS for the running ones. Interrupt the rest.

        An interrupted job is given back, and another worker runs it.
        """
        self._is_stopping = True
        async with self._taking:
            running = list(self._running.values())
        if running:
            logger.info("Waiting for %s running jobs", len(running))
            await asyncio.wait(running, timeout=self._settings.stop_seconds)
            for task in running:
                task.cancel()
            await asyncio.wait(running, timeout=CANCELLING_SECONDS)

    async def _take(self) -> bool:
        """Start as many jobs as may run now. Return whether these were all that are due."""
        free = self._free_slots()
        if not free:
            return False
        async with self._taking:
            if self._is_stopping:
                return True
            jobs = await self._queue.take([job.name for job in all_jobs()], free)
            for job in jobs:
                task = detached(self._executor.execute(job), f"job {job.id}")
                self._running[job.id] = task
                if is_suspect(job):
                    self._suspects.add(job.id)
                task.add_done_callback(partial(self._forget, job.id))
        return len(jobs) < free

    def _free_slots(self) -> int:
        """All suspects together take one slot, because only one of them runs at a time."""
        others = len(self._running) - len(self._suspects)
        return self._settings.concurrency - others - bool(self._suspects)

    def _forget(self, job_id: int, task: asyncio.Task[None]) -> None:
        # After a pause of this process, the same job may have been delivered to it again.
        if self._running.get(job_id) is task:
            del self._running[job_id]
            self._suspects.discard(job_id)


@asynccontextmanager
async def running_jobs(
    resources: ProcessResources, application_name: str, is_ready: Ready
) -> AsyncIterator[JobWorker]:
    """Run jobs inside the block. On leaving, the running jobs get time to end."""
    settings = resources.settings[JobsSettings]
    # A connection of its own, so that heartbeats do not wait for the connections of the jobs. Its
    # statements are short, and their results must not be lost, so they may wait for each other.
    changed = {"pool_size": 1, "pool_timeout_seconds": QUEUE_POOL_SECONDS}
    database = resources.settings[DatabaseSettings].model_copy(update=changed)
    engine = open_engine(database, application_name)
    queue = JobQueue(engine, timedelta(seconds=settings.heartbeat_timeout_seconds))
    worker = JobWorker(resources, queue, is_ready)
    try:
        async with (
            in_background(worker.beat, "job heartbeat"),
            in_background(lambda: measure_queue(engine), "job gauges"),
            in_background(lambda: keep_schedules(resources.database), "job schedules"),
            in_background(worker.poll, "job worker"),
        ):
            try:
                yield worker
            finally:
                await worker.stop()
    finally:
        await engine.dispose()
