"""Which objects of the store are needed: each has a row, to which other rows refer.

A feature keeps a file in three steps, so that no crash and no race leaves an object without a row,
or a row without its object:

    async with resources.database.transaction() as session:  # committed before the object exists
        object_id = await reserve(session, key, seconds)
    await resources.objects.put(key, content)
    await refer(session, object_id)  # in the transaction of the request, then insert the own row

An object whose last reference goes is given to `release`, in the same transaction. A job deletes
objects that nothing refers to. What refers to an object are the foreign keys to this table.
"""

import logging
from datetime import datetime

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


class StoredObject(Base):
    """`check_at` is when the job looks whether anything refers to the object. None means never."""

    __tablename__ = "stored_objects"

    key: Mapped[str] = mapped_column(String(200), unique=True)
    check_at: Mapped[datetime | None]


Index(None, StoredObject.check_at, postgresql_where=StoredObject.check_at.is_not(None))

RESERVE = text(
    "INSERT INTO stored_objects (key, check_at) "
    "VALUES (:key, now() + make_interval(secs => :seconds)) "
    "ON CONFLICT (key) DO UPDATE "
    "SET check_at = greatest(stored_objects.check_at, excluded.check_at) RETURNING id"
)
REFER = text("SELECT id FROM stored_objects WHERE id = :object_id FOR KEY SHARE")
RELEASE = text(
    "UPDATE stored_objects SET check_at = greatest(check_at, now()) WHERE id = ANY(:object_ids)"
)
# An object is skipped while a transaction that refers to it is open.
NEXT = text(
    "SELECT id, key FROM stored_objects WHERE check_at <= now() "
    "ORDER BY check_at LIMIT 1 FOR UPDATE SKIP LOCKED"
)
KEEP = text("UPDATE stored_objects SET check_at = NULL WHERE id = :object_id")
POSTPONE = text(
    "UPDATE stored_objects SET check_at = now() + make_interval(secs => :seconds) "
    "WHERE id = :object_id"
)
DELETE = text("DELETE FROM stored_objects WHERE id = :object_id")


async def reserve(session: AsyncSession, key: str, seconds: float) -> int:
    """Return the id of the object `key`. For these seconds, it stays without a reference.

    Commit this before the object is stored.
    """
    object_id: int = await session.scalar(RESERVE, {"key": key, "seconds": seconds})
    return object_id


async def refer(session: AsyncSession, object_id: int) -> None:
    """Keep an object until this transaction ends, which inserts a row that refers to it."""
    if await session.scalar(REFER, {"object_id": object_id}) is None:
        raise Unavailable("Storing the file took too long. Try again.")


async def release(session: AsyncSession, *object_ids: int) -> None:
    """Let the job look at these objects, because something does not refer to them any more."""
    if object_ids:
        await session.execute(RELEASE, {"object_ids": list(object_ids)})


async def delete_unreferenced(database: Database, store: ObjectStore) -> None:
    """Delete objects that nothing refers to, each in a transaction of its own.

    An object that cannot be deleted is tried again later, so that it does not keep the others.
    Raises `Unavailable` if the store is away.
    """
    if not store.is_set:
        return
    failures = 0
    for _ in range(MOST_DELETED):
        async with database.transaction() as session:
            row = (await session.execute(NEXT)).one_or_none()
            if row is None:
                return
            object_id = {"object_id": row.id}
            if await session.scalar(text(_is_referenced()), object_id):
                await session.execute(KEEP, object_id)
                continue
            # While the row is locked, nobody can store the object again.
            try:
                await store.delete(row.key)
            except Unavailable:
                failures += 1
                await session.execute(POSTPONE, {**object_id, "seconds": POSTPONED_SECONDS})
                logger.warning("A file could not be deleted. It is tried again later: %s", row.key)
            else:
                failures = 0
                await session.execute(DELETE, object_id)
        if failures == FAILURES_TO_STOP:
            raise Unavailable("The store for files deletes nothing.")


def _is_referenced() -> str:
    """Return the statement, with every foreign key that leads here."""
    keys = [
        f"EXISTS (SELECT FROM {table.name} WHERE {key.parent.name} = :object_id)"
        for table in Base.metadata.sorted_tables
        for key in table.foreign_keys
        if key.column.table is StoredObject.__table__
    ]
    return f"SELECT {' OR '.join(keys) or 'false'}"
