"""A job is a part of the transaction that enqueues it."""

from datetime import timedelta

import pytest
from sqlalchemy import text

from app.infra.jobs.arguments import InvalidJob
from app.infra.jobs.enqueue import enqueue
from app.infra.resources import ProcessResources
from tests.infra.jobs.conftest import Body
from tests.jobs import queued, run_jobs
from tests.sample.notes import Note


async def test_committed_job_runs_once(resources: ProcessResources, note: Note, body: Body) -> None:
    async with resources.database.transaction() as session:
        await enqueue(session, "notes.edit", note_id=note.id)
    assert await run_jobs(resources) == ["notes.edit"]
    assert await body.read() == "Body!"
    assert await queued(resources) == []


async def test_rollback_enqueues_nothing_even_if_the_job_came_first(
    resources: ProcessResources, note: Note
) -> None:
    with pytest.raises(RuntimeError, match="undo"):
        async with resources.database.transaction() as session:
            await enqueue(session, "notes.edit", note_id=note.id)  # the first statement
            raise RuntimeError("undo")
    assert await queued(resources) == []


async def test_job_cannot_be_seen_before_the_commit(
    resources: ProcessResources, note: Note
) -> None:
    async with resources.database.transaction() as session:
        await enqueue(session, "notes.edit", note_id=note.id)
        assert await run_jobs(resources) == []
    assert await run_jobs(resources) == ["notes.edit"]


async def test_session_for_reading_is_refused(resources: ProcessResources, note: Note) -> None:
    async with resources.database.read() as session:
        with pytest.raises(TypeError, match="for reading"):
            await enqueue(session, "notes.edit", note_id=note.id)


async def test_delayed_job_waits(resources: ProcessResources, note: Note) -> None:
    async with resources.database.transaction() as session:
        await enqueue(session, "notes.edit", delay=timedelta(hours=1), note_id=note.id)
    assert await run_jobs(resources) == []
    assert await queued(resources) == [("notes.edit", "queued")]


async def test_unique_job_is_in_the_queue_once(resources: ProcessResources, note: Note) -> None:
    async with resources.database.transaction() as session:
        first = await enqueue(session, "notes.edit", unique=note.id, note_id=note.id)
        second = await enqueue(session, "notes.edit", unique=note.id, note_id=note.id)
        other = await enqueue(session, "notes.wait", unique=note.id, note_id=note.id)
    assert first is not None
    assert second is None
    assert other is not None


@pytest.mark.parametrize(
    ("name", "arguments", "sentence"),
    [
        ("notes.edti", {"note_id": 1}, "Did you mean notes.edit?"),
        ("notes.edit", {}, "note_id: Field required"),
        ("notes.edit", {"note_id": "12345"}, "note_id: Input should be a valid integer"),
        ("notes.edit", {"note_id": 1, "more": 2}, "more: Extra inputs are not permitted"),
    ],
)
async def test_wrong_call_is_refused_without_its_values(
    resources: ProcessResources, name: str, arguments: dict[str, object], sentence: str
) -> None:
    async with resources.database.transaction() as session:
        with pytest.raises(InvalidJob) as refused:
            await enqueue(session, name, **arguments)  # type: ignore[arg-type]
    assert sentence in str(refused.value)
    assert "12345" not in str(refused.value)
    assert await queued(resources) == []


async def test_names_of_the_tables_do_not_come_from_the_environment(
    resources: ProcessResources, note: Note, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("QUEUE_TABLE", "QUEUE_TABLE_LOG", "CHANNEL", "FUNCTION", "TRIGGER"):
        monkeypatch.setenv(name, "other")
    async with resources.database.transaction() as session:
        await enqueue(session, "notes.edit", note_id=note.id)
    assert await run_jobs(resources) == ["notes.edit"]


async def test_no_trigger_sends_notifications(resources: ProcessResources) -> None:
    """With the trigger of pgqueuer, only one transaction of the server commits at a time."""
    async with resources.database.read() as session:
        triggers = await session.scalars(
            text("SELECT tgname FROM pg_trigger WHERE NOT tgisinternal")
        )
        assert triggers.all() == []
