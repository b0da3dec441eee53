"""The table `cache_outbox`: changes that are committed, and perhaps not invalidated yet."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ARRAY, Text, func, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column

from app.infra.database.base import Base


class CacheOutbox(Base):
    """Written with the change itself, deleted once every tag is invalidated."""

    __tablename__ = "cache_outbox"

    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    tags: Mapped[list[str]] = mapped_column(ARRAY(Text))


INSERT = text("INSERT INTO cache_outbox (tags) VALUES (:tags) RETURNING id")
DELETE = text("DELETE FROM cache_outbox WHERE id = ANY(:ids)")
# Their writer has had its time. Rows that another process is at are left to it.
LEFT_BEHIND = """
    FROM cache_outbox
    WHERE created_at < clock_timestamp() - make_interval(secs => :age_seconds)
"""
ANY_LEFT = text(f"SELECT EXISTS (SELECT {LEFT_BEHIND})")
LOCK = text(f"SELECT id, tags {LEFT_BEHIND} ORDER BY id LIMIT :most FOR UPDATE SKIP LOCKED")


@dataclass(frozen=True, slots=True)
class Change:
    """A row."""

    id: int
    tags: Sequence[str]


async def insert_change(session: AsyncSession, tags: Sequence[str]) -> int:
    """Insert a row into the transaction of the change, and return its id."""
    inserted: int = (await session.execute(INSERT, {"tags": tags})).scalar_one()
    return inserted


async def delete_changes(session: AsyncSession, ids: Sequence[int]) -> None:
    """Delete rows that are done."""
    await session.execute(DELETE, {"ids": ids})


async def has_changes(session: AsyncSession, age_seconds: float) -> bool:
    """Whether a row was left behind."""
    found: bool = (await session.execute(ANY_LEFT, {"age_seconds": age_seconds})).scalar_one()
    return found


async def lock_changes(session: AsyncSession, age_seconds: float, most: int) -> list[Change]:
    """Return the oldest rows that nobody else is at, locked until the transaction ends."""
    rows = await session.execute(LOCK, {"age_seconds": age_seconds, "most": most})
    return [Change(*row) for row in rows]
