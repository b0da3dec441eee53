"""Jobs with a schedule run again and again, and clean up."""

from typing import Any

import pytest
from sqlalchemy import text

from app.infra.jobs import registry
from app.infra.jobs.enqueue import enqueue
from app.infra.jobs.schedules import check_schedules
from app.infra.jobs.settings import JobsSettings
from app.infra.resources import ProcessResources
from tests.jobs import queued, run_jobs

SCHEDULED = {"jobs.prune_log", "cache.prune_outbox", "notes.tick"}


async def rows(resources: ProcessResources, statement: str, **values: object) -> list[Any]:
    async with resources.database.transaction() as session:
        return list(await session.scalars(text(statement), values))


async def test_each_job_with_a_schedule_is_enqueued_once(resources: ProcessResources) -> None:
    for _ in range(3):
        await check_schedules(resources.database)
    waiting = [name for name, _ in await queued(resources)]
    assert set(waiting) >= SCHEDULED
    assert len(waiting) == len(set(waiting))


async def test_next_run_is_enqueued_when_the_last_one_ends(resources: ProcessResources) -> None:
    await check_schedules(resources.database)
    before = await queued(resources)
    done = await run_jobs(resources)
    assert set(done) >= SCHEDULED
    assert sorted(await queued(resources)) == sorted(before)
    assert await run_jobs(resources) == []  # they are due later
    await check_schedules(resources.database)
    assert len(await queued(resources)) == len(before)


async def test_job_with_a_schedule_is_tried_again_and_never_held(
    resources: ProcessResources, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(_context: object) -> None:
        raise ValueError

    broken = registry.Job(
        **{
            field: getattr(registry.find_job("notes.tick"), field)
            for field in ("name", "arguments", "every", "deliveries", "time_limit")
        },
        function=fail,
    )
    monkeypatch.setitem(registry._jobs, "notes.tick", broken)
    await check_schedules(resources.database)
    for _ in range(resources.settings[JobsSettings].deliveries + 2):
        await rows(resources, "UPDATE pgqueuer SET execute_after = '2020-01-01' RETURNING id")
        assert "notes.tick" in await run_jobs(resources)
    [(status, minutes)] = await rows(
        resources,
        "SELECT (status::text, round(extract(epoch FROM execute_after - now()) / 60)::int) "
        "FROM pgqueuer WHERE entrypoint = 'notes.tick'",
    )
    assert status == "queued"
    assert minutes <= 5  # not later than the next run


async def test_schedule_of_a_removed_job_is_removed(
    resources: ProcessResources, monkeypatch: pytest.MonkeyPatch
) -> None:
    await check_schedules(resources.database)
    monkeypatch.delitem(registry._jobs, "notes.tick")
    await check_schedules(resources.database)
    assert "notes.tick" not in [name for name, _ in await queued(resources)]


async def test_old_rows_are_pruned_and_new_ones_are_kept(resources: ProcessResources) -> None:
    days = resources.settings[JobsSettings].log_days
    for age in (days + 1, days - 1):
        await rows(
            resources,
            "INSERT INTO pgqueuer_log (job_id, status, priority, entrypoint, created) "
            "VALUES (0, 'queued', 0, 'x', now() - make_interval(days => :age)) RETURNING id",
            age=age,
        )
    for hours in (49, 47):
        await rows(
            resources,
            "INSERT INTO cache_outbox (tags, namespace, created_at) "
            "VALUES ('{x}', 'gone', now() - make_interval(hours => :hours)) RETURNING id",
            hours=hours,
        )
    await check_schedules(resources.database)
    await run_jobs(resources)
    assert len(await rows(resources, "SELECT id FROM pgqueuer_log WHERE entrypoint = 'x'")) == 1
    assert len(await rows(resources, "SELECT id FROM cache_outbox WHERE namespace = 'gone'")) == 1


async def test_deleting_many_files_is_not_reported_as_too_many_statements(
    resources: ProcessResources,
) -> None:
    """The fixture `reports` fails for a report."""
    add = "INSERT INTO stored_objects (key, check_at) SELECT 'a/' || i, now() FROM "
    await rows(resources, f"{add} generate_series(1, 10) i RETURNING id")
    async with resources.database.transaction() as session:
        await enqueue(session, "storage.delete_unreferenced")
    assert await run_jobs(resources) == ["storage.delete_unreferenced"]
    assert await rows(resources, "SELECT id FROM stored_objects") == []
