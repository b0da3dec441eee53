"""Which objects of the store are needed: each has a row, to which other rows refer.

A feature keeps a file in three steps, so that no crash and no race leaves an object without a row,
or a row without its object:

    object_id = await reserve(resources.database, key, seconds)  # committed before it exists
    await resources.objects.put(key, content)
    await refer(session, object_id)  # in the transaction of the request, then insert the own row

An object whose last reference goes is given to `release`, in the same transaction. A job deletes
objects that nothing refers to. What refers to an object are the foreign keys to this table.
"""

import asyncio
import logging
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Index, String, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column

from app.errors import Unavailable
from app.infra.database.base import Base
from app.infra.database.sessions import Database
from app.infra.storage.store import ObjectStore

logger = logging.getLogger(__name__)

MOST_DELETED = 1_000  # in one run of the job
POSTPONED_SECONDS = 600  # until the job tries again to delete an object
FAILURES_TO_STOP = 3  # in a row: then it is the store that is away
# Longer than the two calls of a deletion may take, which have STORAGE_TIMEOUT_SECONDS each.
DELETION_SECONDS = 180
# How long `reserve` waits for the end of a deletion, and how often it looks.
WAIT_SECONDS, LOOK_SECONDS = 3.0, 0.05


class StoredObject(Base):
    """`check_at` is when the job looks whether anything refers to the object. None means never.

    Until `deleting_until`, the object is being deleted, and must not be stored again.
    """

    __tablename__ = "stored_objects"

    key: Mapped[str] = mapped_column(String(200), unique=True)
    check_at: Mapped[datetime | None]
    deleting_until: Mapped[datetime | None]


Index(None, StoredObject.check_at, postgresql_where=StoredObject.check_at.is_not(None))

RESERVE = text(
    "INSERT INTO stored_objects (key, check_at) "
    "VALUES (:key, now() + make_interval(secs => :seconds)) "
    "ON CONFLICT (key) DO UPDATE "
    "SET check_at = greatest(stored_objects.check_at, excluded.check_at), deleting_until = NULL "
    "WHERE coalesce(stored_objects.deleting_until < now(), true) RETURNING id"
)
REFER = text(
    "SELECT id FROM stored_objects WHERE id = :object_id AND deleting_until IS NULL FOR KEY SHARE"
)
RELEASE = text(
    "UPDATE stored_objects SET check_at = greatest(check_at, now()) WHERE id = ANY(:object_ids)"
)
# An object is skipped while a transaction that refers to it is open.
NEXT = text(
    "SELECT id FROM stored_objects WHERE check_at <= now() "
    "ORDER BY check_at LIMIT 1 FOR UPDATE SKIP LOCKED"
)
KEEP = text("UPDATE stored_objects SET check_at = NULL WHERE id = :object_id")
BEGIN_DELETION = text(
    "UPDATE stored_objects SET check_at = now() + make_interval(secs => :seconds), "
    "deleting_until = now() + make_interval(secs => :seconds) "
    "WHERE id = :object_id RETURNING id, key, deleting_until"
)
# Neither does anything if `reserve` has taken the object back meanwhile.
END_DELETION = text("DELETE FROM stored_objects WHERE id = :id AND deleting_until = :until")
POSTPONE = text(
    "UPDATE stored_objects SET check_at = now() + make_interval(secs => :seconds) "
    "WHERE id = :id AND deleting_until = :until"
)


class _Deletion(NamedTuple):
    """A row that is being deleted, and until when this process may do that."""

    id: int
    key: str
    until: datetime


async def reserve(database: Database, key: str, seconds: float) -> int:
    """Return the id of the object `key`. For these seconds, it stays without a reference.

    This is committed. Store the object after it. While an object of this key is being deleted,
    this waits. Raises `Unavailable` if the deletion takes too long.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + WAIT_SECONDS
    while loop.time() < until:
        async with database.transaction() as session:
            object_id: int | None = await session.scalar(RESERVE, {"key": key, "seconds": seconds})
        if object_id is not None:
            return object_id
        await asyncio.sleep(LOOK_SECONDS)
    raise Unavailable("The same file is being deleted. Try again in a moment.")


async def refer(session: AsyncSession, object_id: int) -> None:
    """Keep an object until this transaction ends, which inserts a row that refers to it."""
    if await session.scalar(REFER, {"object_id": object_id}) is None:
        raise Unavailable("Storing the file took too long. Try again.")


async def release(session: AsyncSession, *object_ids: int) -> None:
    """Let the job look at these objects, because something does not refer to them any more."""
    if object_ids:
        await session.execute(RELEASE, {"object_ids": list(object_ids)})


async def delete_unreferenced(database: Database, store: ObjectStore) -> None:
    """Delete objects that nothing refers to. No transaction is open while the store works.

    An object that cannot be deleted is tried again later, so that it does not keep the others.
    Raises `Unavailable` if the store is away.
    """
    if not store.is_set:
        return
    failures = 0
    for _ in range(MOST_DELETED):
        async with database.transaction() as session:
            object_id = await session.scalar(NEXT)
            if object_id is None:
                return
            deletion = await _begin_deletion(session, object_id)
        if deletion is None:
            continue
        failures = 0 if await _delete(database, store, deletion) else failures + 1
        if failures == FAILURES_TO_STOP:
            raise Unavailable("The store for files deletes nothing.")


async def _begin_deletion(session: AsyncSession, object_id: int) -> _Deletion | None:
    """From this commit on, the object cannot be referred to or stored. None if it is needed."""
    values = {"object_id": object_id}
    if await session.scalar(text(_is_referenced()), values):
        await session.execute(KEEP, values)
        return None
    seconds = {"seconds": DELETION_SECONDS}
    return _Deletion(*(await session.execute(BEGIN_DELETION, values | seconds)).one())


async def _delete(database: Database, store: ObjectStore, deletion: _Deletion) -> bool:
    """Return whether the object could be deleted. A process that dies here leaves it for later."""
    values = {"id": deletion.id, "until": deletion.until}
    try:
        await store.delete(deletion.key)
    except Unavailable:
        logger.warning("A file could not be deleted. It is tried again later: %s", deletion.key)
        async with database.transaction() as session:
            await session.execute(POSTPONE, {**values, "seconds": POSTPONED_SECONDS})
        return False
    async with database.transaction() as session:
        await session.execute(END_DELETION, values)
    return True


def _is_referenced() -> str:
    """Return the statement, with every foreign key that leads here."""
    keys = [
        f"EXISTS (SELECT FROM {table.name} WHERE {key.parent.name} = :object_id)"
        for table in Base.metadata.sorted_tables
        for key in table.foreign_keys
        if key.column.table is StoredObject.__table__
    ]
    return f"SELECT {' OR '.join(keys) or 'false'}"
