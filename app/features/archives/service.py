"""Operations on archives: a user asks for one, and a job writes it."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import orjson
from sqlalchemy import RowMapping
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import Conflict, NotFound, RateLimited
from app.features.archives import queries
from app.features.archives.models import Archive, ArchiveStatus
from app.features.avatars.service import object_key
from app.features.users import service as users
from app.features.users.models import CallerRow
from app.features.users.queries import read_account
from app.infra.jobs.enqueue import enqueue
from app.infra.jobs.inspection import find_live
from app.infra.jobs.registry import JobContext
from app.infra.resources import ProcessResources
from app.infra.storage.store import ObjectStore
from app.infra.storage.stored_objects import refer, release, reserve
from app.infra.storage.zip_stream import ZipStream

MIN_INTERVAL = timedelta(days=1)  # between two archives of one user
RETENTION = timedelta(days=7)
TIME_LIMIT = timedelta(minutes=30)
RETRY_SECONDS = 30
PROFILE = ("id", "email", "name", "bio", "role", "verified", "created_at", "updated_at")

ListRows = Callable[[AsyncSession, int, queries.Rows], Awaitable[queries.Rows]]
FILES: dict[str, ListRows] = {
    "posts.jsonl": queries.list_posts,
    "comments.jsonl": queries.list_comments,
}


class ArchiveDeleted(Exception):
    """The account was deleted while its archive was made."""


async def create_archive(session: AsyncSession, objects: ObjectStore, user: CallerRow) -> Archive:
    """Ask for an archive. Raises `Conflict` while another one is made, and `RateLimited`.

    Failed archives do not count. After the insert, no other request can insert an archive of this
    user, so the check of the daily limit cannot miss one.
    """
    objects.require()
    await users.keep_account(session, user)
    archive = await queries.insert_archive(session, user.id)
    if archive is None:
        conflict = Conflict("Your archive is being made already.", code="archive_in_progress")
        conflict.retry_after_seconds = RETRY_SECONDS
        raise conflict
    last = await queries.get_last_done(session, user.id)
    if last is not None and (wait := last + MIN_INTERVAL - datetime.now(UTC)) > timedelta():
        raise RateLimited(int(wait.total_seconds()) + 1)
    await enqueue(
        session, "archives.build", unique=archive.id, archive_id=archive.id, user_id=user.id
    )
    return archive


async def read_archive(session: AsyncSession, user: CallerRow, archive_id: int) -> Archive:
    """Return the caller's archive, or raise `NotFound`."""
    archive = await queries.get_archive(session, user.id, archive_id)
    if archive is None:
        raise NotFound("There is no such archive.")
    return archive


async def read_finished_archive(session: AsyncSession, user: CallerRow, archive_id: int) -> Archive:
    """Return the caller's archive if it can be downloaded. Otherwise raise an error."""
    archive = await read_archive(session, user, archive_id)
    if archive.status is not ArchiveStatus.DONE:
        raise Conflict("The archive is not done.", code="archive_not_done")
    return archive


async def build_archive(context: JobContext, archive_id: int, user_id: int) -> None:
    """Write the archive, and mark it as done in the transaction that ends the job.

    Each delivery of the job writes an object of its own. A worker that was thought to be dead can
    therefore not damage the object of the next one. Objects that no row refers to are deleted by
    another job.
    """
    context.begin_stream()
    resources = context.resources
    key = f"archives/{archive_id}-{context.job_id}-{context.delivery}.zip"
    async with resources.database.transaction() as session:
        if not await queries.set_progress(session, archive_id, 0):
            return
    object_id = await reserve(resources.database, key, 2 * TIME_LIMIT.total_seconds())
    try:
        async with resources.objects.writer(key) as write:
            stream = ZipStream(write)
            await _write_profile(resources, stream, user_id)
            await _write_rows(resources, stream, archive_id, user_id)
            await stream.close()
    except ArchiveDeleted:
        return
    await refer(context.session, object_id)
    await queries.set_done(context.session, archive_id, object_id, key, stream.sha256, RETENTION)


async def fail_lost_archives(session: AsyncSession) -> None:
    """Mark archives as failed whose job is held or was discarded."""
    unfinished = await queries.list_unfinished(session)
    live = await find_live(session, "archives.build", unfinished)
    for archive_id in set(unfinished) - live:
        await queries.set_failed(session, archive_id, RETENTION)


async def delete_expired_archives(session: AsyncSession) -> None:
    await release(session, *await queries.delete_expired(session))


async def _write_profile(resources: ProcessResources, stream: ZipStream, user_id: int) -> None:
    async with resources.database.read() as session:
        user = await read_account(session, user_id)
        picture = await queries.get_picture(session, user_id)
    if user is None:
        return
    async with stream.file("profile.json") as append:
        fields = {name: getattr(user, name) for name in PROFILE}
        await append(orjson.dumps(fields, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    if picture is None:
        return
    size = await resources.objects.size(object_key(picture))
    content = size and await resources.objects.read(object_key(picture), 0, size)
    if content:  # it may just have been replaced
        async with stream.file("avatar.webp") as append:
            await append(content)


async def _write_rows(
    resources: ProcessResources, stream: ZipStream, archive_id: int, user_id: int
) -> None:
    """Write a file of JSON lines for each kind of rows. A connection is held for a batch only."""
    async with resources.database.read() as session:
        total = await queries.count_rows(session, user_id)
    written = 0
    for name, list_rows in FILES.items():
        async with stream.file(name) as append:
            rows: queries.Rows = ()
            while True:
                async with resources.database.transaction() as session:
                    rows = await list_rows(session, user_id, rows)
                    progress = min(99, 100 * written // max(1, total))
                    if not await queries.set_progress(session, archive_id, progress):
                        raise ArchiveDeleted
                if not rows:
                    break
                await append(b"".join(map(_to_line, rows)))
                written += len(rows)


def _to_line(row: RowMapping) -> bytes:
    return orjson.dumps(dict(row), option=orjson.OPT_APPEND_NEWLINE)
