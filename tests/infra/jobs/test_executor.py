"""A job runs exactly once, or is tried again and then held."""

import asyncio
import json
import logging
import random
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from fastapi import FastAPI
from pgqueuer.models import Job as QueuedJob
from sqlalchemy import text

from app.infra.jobs import registry
from app.infra.jobs.enqueue import enqueue
from app.infra.jobs.executor import JobExecutor, retry_delay
from app.infra.jobs.queue import Claim, JobQueue
from app.infra.jobs.registry import JobContext, JobFunction, find_job
from app.infra.jobs.settings import JobsSettings
from app.infra.observability.background import detached
from app.infra.observability.logs import open_log
from app.infra.observability.metrics import JOBS_FINISHED
from app.infra.observability.request_context import RequestContext, request_context
from app.infra.observability.settings import LogSettings
from app.infra.resources import ProcessResources
from tests.application import client_of
from tests.cached_app import settled
from tests.infra.jobs.conftest import Body
from tests.jobs import queue_of, queued, run_jobs
from tests.sample import jobs as sample
from tests.sample.notes import Note


async def add(resources: ProcessResources, name: str, **arguments: int) -> int:
    async with resources.database.transaction() as session:
        job_id = await enqueue(session, name, **arguments)  # type: ignore[arg-type]
    assert job_id is not None
    return job_id


def behave(
    monkeypatch: pytest.MonkeyPatch, function: JobFunction, time_limit: timedelta | None = None
) -> None:
    """Let the job notes.edit do something else."""
    changed = replace(find_job("notes.edit"), function=function, time_limit=time_limit)
    monkeypatch.setitem(registry._jobs, "notes.edit", changed)


async def row(resources: ProcessResources) -> Any:
    """Return the only job."""
    async with resources.database.read() as session:
        return (
            await session.execute(
                text(
                    "SELECT status::text, attempts, headers->>'error' AS error, execute_after, "
                    "execute_after > now() AS later FROM pgqueuer"
                )
            )
        ).one()


async def let_time_pass(resources: ProcessResources) -> None:
    """Let all jobs be due, and let the heartbeats of all workers be old."""
    async with resources.database.transaction() as session:
        await session.execute(
            text(
                "UPDATE pgqueuer SET execute_after = now() - interval '1 s', "
                "heartbeat = now() - interval '1 hour'"
            )
        )


async def test_failed_job_changes_nothing_and_is_tried_again_later(
    resources: ProcessResources, note: Note, body: Body
) -> None:
    await add(resources, "notes.fail", note_id=note.id)
    assert await run_jobs(resources) == ["notes.fail"]
    assert await body.read() == "Body"
    waiting = await row(resources)
    assert (waiting.status, waiting.attempts, waiting.later) == ("queued", 1, True)


async def test_job_that_failed_lets_jobs_run_first_that_have_not(
    resources: ProcessResources, note: Note
) -> None:
    await add(resources, "notes.fail", note_id=note.id)
    await run_jobs(resources)
    await add(resources, "notes.edit", note_id=note.id)
    await let_time_pass(resources)
    assert await run_jobs(resources) == ["notes.edit", "notes.fail"]


async def test_job_whose_error_is_permanent_is_held_at_once(
    resources: ProcessResources, caplog: pytest.LogCaptureFixture
) -> None:
    await add(resources, "notes.refuse")
    await run_jobs(resources)
    found = await row(resources)
    assert (found.status, found.attempts, found.error) == ("failed", 1, "PermanentError")
    assert "PermanentError: Nobody takes this." in caplog.text


async def test_job_is_held_after_its_last_delivery(
    resources: ProcessResources, note: Note, body: Body
) -> None:
    held = JOBS_FINISHED.labels("notes.fail", "held")._value.get()
    await add(resources, "notes.fail", note_id=note.id)
    for _ in range(5):
        await run_jobs(resources)
        await let_time_pass(resources)
    found = await row(resources)
    assert (found.status, found.attempts, found.error) == ("failed", 3, "ValueError")
    assert await body.read() == "Body"
    assert JOBS_FINISHED.labels("notes.fail", "held")._value.get() == held + 1


async def test_job_that_awaits_something_cancelled_has_failed(
    resources: ProcessResources, note: Note
) -> None:
    await add(resources, "notes.await_cancelled", note_id=note.id)
    await run_jobs(resources)
    waiting = await row(resources)
    assert (waiting.status, waiting.attempts, waiting.error) == ("queued", 1, "CancelledError")


async def test_text_of_an_error_is_neither_logged_nor_stored(
    resources: ProcessResources, note: Note, caplog: pytest.LogCaptureFixture
) -> None:
    job_id = await add(resources, "notes.fail", note_id=note.id)
    await run_jobs(resources)
    assert f"job notes.fail {job_id} failed (delivery 1) with ValueError" in caplog.text
    assert "tests/sample/jobs.py" in caplog.text
    assert "Body!" not in caplog.text
    async with resources.database.read() as session:
        for table in ("pgqueuer", "pgqueuer_log"):
            rows = await session.scalars(text(f"SELECT to_jsonb(t)::text FROM {table} t"))
            assert not [one for one in rows if "Body" in one]
        tracebacks = text("SELECT count(*) FROM pgqueuer_log WHERE traceback IS NOT NULL")
        assert await session.scalar(tracebacks) == 0


async def test_log_of_a_job_has_the_id_of_the_request_that_enqueued_it(
    resources: ProcessResources, note: Note, capfd: pytest.CaptureFixture[str]
) -> None:
    request = RequestContext("the-request-id", "POST", "/")

    async def enqueue_within_the_request() -> int:
        request_context.set(request)
        return await add(resources, "notes.edit", note_id=note.id)

    log = open_log(LogSettings(format="json"), is_production=True)
    try:
        job_id = await detached(enqueue_within_the_request())
        await run_jobs(resources)
    finally:
        log.writer.close()
        logging.getLogger().removeHandler(log)
    lines = [json.loads(line) for line in capfd.readouterr().out.splitlines() if line[:1] == "{"]
    [line] = [line for line in lines if line["event"] == f"job notes.edit {job_id} done"]
    assert line["request_id"] == "the-request-id"
    assert "note_id" not in line


def test_pause_doubles_up_to_an_hour_and_varies(monkeypatch: pytest.MonkeyPatch) -> None:
    first = timedelta(seconds=5)
    assert len({retry_delay(first, 3) for _ in range(20)}) > 1
    monkeypatch.setattr(random, "uniform", lambda low, high: (low + high) / 2)
    pauses = [retry_delay(first, delivery).total_seconds() for delivery in (1, 2, 3, 4, 50)]
    assert pauses == [5, 10, 20, 40, 3_600]


async def test_job_that_takes_too_long_fails(resources: ProcessResources, note: Note) -> None:
    await add(resources, "notes.hang")
    await run_jobs(resources)
    found = await row(resources)
    assert (found.status, found.error) == ("queued", "TimeoutError")


async def edit_and_catch_the_cancellation(context: JobContext, *, note_id: int) -> None:
    await sample.edit(context, note_id=note_id)
    with suppress(asyncio.CancelledError):
        await asyncio.sleep(3_600)


async def test_job_that_catches_its_cancellation_fails_when_it_takes_too_long(
    resources: ProcessResources, note: Note, body: Body, monkeypatch: pytest.MonkeyPatch
) -> None:
    behave(monkeypatch, edit_and_catch_the_cancellation, timedelta(milliseconds=50))
    await add(resources, "notes.edit", note_id=note.id)
    await run_jobs(resources)
    found = await row(resources)
    assert (found.status, found.error) == ("queued", "TimeoutError")
    assert await body.read() == "Body"


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, GeneratorExit])
async def test_job_that_tries_to_end_the_process_has_failed(
    resources: ProcessResources,
    note: Note,
    body: Body,
    monkeypatch: pytest.MonkeyPatch,
    error: type[BaseException],
) -> None:
    async def edit_and_leave(context: JobContext, *, note_id: int) -> None:
        await sample.edit(context, note_id=note_id)
        await context.session.flush()
        raise error

    behave(monkeypatch, edit_and_leave)
    await add(resources, "notes.edit", note_id=note.id)
    await run_jobs(resources)
    found = await row(resources)
    assert (found.status, found.attempts, found.error) == ("queued", 1, error.__name__)
    assert await body.read() == "Body"


async def test_job_of_a_dead_worker_runs_again_and_its_first_effect_is_undone(
    resources: ProcessResources, note: Note, body: Body
) -> None:
    await add(resources, "notes.edit", note_id=note.id)
    dead = queue_of(resources)
    [job] = await dead.take(["notes.edit"], 1)
    await dead.start(job)
    assert await run_jobs(resources) == []
    await let_time_pass(resources)
    assert await run_jobs(resources) == ["notes.edit"]
    assert await body.read() == "Body!"


async def test_slow_worker_that_lost_its_job_changes_nothing(
    resources: ProcessResources,
    note: Note,
    body: Body,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await add(resources, "notes.edit", note_id=note.id)
    slow = queue_of(resources)
    executor = JobExecutor(resources, slow)
    [job] = await slow.take(["notes.edit"], 1)
    release = asyncio.Event()
    start = slow.start

    async def start_late(queued: QueuedJob) -> Claim:
        claim = await start(queued)
        await release.wait()
        return claim

    monkeypatch.setattr(slow, "start", start_late)
    running = detached(executor.execute(job))
    while (await row(resources)).attempts == 0:
        await asyncio.sleep(0.01)
    await let_time_pass(resources)
    assert await run_jobs(resources) == ["notes.edit"]
    release.set()
    await running
    assert await body.read() == "Body!"
    assert "What this worker did for job notes.edit" in caplog.text


async def test_redelivered_job_whose_effect_was_committed_does_nothing(
    resources: ProcessResources, note: Note, body: Body
) -> None:
    await add(resources, "notes.edit", note_id=note.id)
    queue = queue_of(resources)
    [job] = await queue.take(["notes.edit"], 1)
    for _ in range(2):
        await detached(JobExecutor(resources, queue).execute(job))
    assert await body.read() == "Body!"


async def die_while_running(
    queue: JobQueue,
    executor: JobExecutor,
    jobs: Sequence[QueuedJob],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Start jobs, and end while the first one runs, without a trace in the database."""

    async def nothing(_claim: object) -> bool:
        return False

    monkeypatch.setattr(queue, "release", nothing)
    started = asyncio.Event()
    start = queue.start

    async def start_and_tell(job: QueuedJob) -> Claim:
        claim = await start(job)
        started.set()
        return claim

    monkeypatch.setattr(queue, "start", start_and_tell)
    tasks = [detached(executor.execute(job)) for job in jobs]
    await started.wait()
    await asyncio.wait(tasks, timeout=0.5)  # time for the others to start too, if they may
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def test_poison_job_is_held_and_the_jobs_beside_it_are_not(
    resources: ProcessResources, note: Note, body: Body, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers die again and again while they run the first job. The second is there each time."""
    for name in ("notes.wait", "notes.edit"):
        await add(resources, name, note_id=note.id)
    most = resources.settings[JobsSettings].deliveries
    for death in range(most):
        await let_time_pass(resources)
        queue = queue_of(resources)
        jobs = await queue.take(["notes.wait", "notes.edit"], 2)
        if death == 0:  # both have started, and neither has ended
            for job in jobs:
                await queue.start(job)
        else:
            await die_while_running(queue, JobExecutor(resources, queue), jobs, monkeypatch)
    await let_time_pass(resources)
    await run_jobs(resources)
    assert await queued(resources) == [("notes.wait", "failed")]
    assert (await row(resources)).error == "WorkerDied"
    assert await body.read() == "Body!"


async def test_cached_response_shows_what_a_job_changed(
    service: FastAPI, note: Note, resources: ProcessResources
) -> None:
    held: ProcessResources = service.state.resources
    async with client_of(service) as client:
        await settled(service)
        url = f"/test/notes/{note.id}"
        for _ in range(2):
            response = await client.get(url)
        assert response.headers["x-cache"].startswith("HIT")
        await add(held, "notes.edit", note_id=note.id)
        await run_jobs(held)
        assert (await client.get(url)).json()["body"] == "Body!"
