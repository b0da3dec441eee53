"""Jobs on the sample feature."""

import asyncio
from datetime import timedelta

from app.errors import PermanentError
from app.infra.jobs.registry import JobContext, job
from coherent_cache import invalidate
from tests.sample.notes import Note, note_tag


@job("notes.edit")
async def edit(context: JobContext, *, note_id: int) -> None:
    """Add a letter to the body of a note."""
    note = await context.session.get_one(Note, note_id)
    note.body += "!"
    note.version += 1
    invalidate(context.session, note_tag(note_id))


@job("notes.fail", deliveries=3)
async def fail(context: JobContext, *, note_id: int) -> None:
    """Change a note, then fail with a text that contains its body."""
    await edit(context, note_id=note_id)
    await context.session.flush()
    note = await context.session.get_one(Note, note_id)
    raise ValueError(note.body)


@job("notes.refuse")
async def refuse(context: JobContext) -> None:
    raise PermanentError("Nobody takes this.")


@job("notes.wait")
async def wait(context: JobContext, *, note_id: int) -> None:
    """Change a note, then wait for longer than any test."""
    await edit(context, note_id=note_id)
    await context.session.flush()
    await asyncio.sleep(3_600)


@job("notes.hang", time_limit=timedelta(milliseconds=50))
async def hang(context: JobContext) -> None:
    await asyncio.sleep(3_600)


@job("notes.await_cancelled")
async def await_cancelled(context: JobContext, *, note_id: int) -> None:
    """Change a note, then await something that was cancelled, such as a shared connection."""
    await edit(context, note_id=note_id)
    cancelled = asyncio.get_running_loop().create_future()
    cancelled.cancel()
    await cancelled


@job("notes.sleep")
async def sleep(context: JobContext) -> None:
    await asyncio.sleep(3_600)


@job("notes.tick", every=timedelta(minutes=5))
async def tick(context: JobContext) -> None:
    """Do nothing, again and again."""
