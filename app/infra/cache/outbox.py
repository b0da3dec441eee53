"""The table `cache_outbox`: changes that are committed, and perhaps not invalidated yet."""

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ARRAY, Index, Text, func, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Mapped, mapped_column

from app.errors import Unavailable
from app.infra.database.base import Base
from app.infra.database.engine import open_engine
from app.sections import DatabaseSettings

STATEMENT_SECONDS = 0.5
SERVER_SECONDS = 0.4  # PostgreSQL ends a statement first: a connection given up leaves it running
ROWS_AT_ONCE = 500
FUTURE = float("inf")


class CacheOutbox(Base):
    """Written with the change itself, deleted once every tag is invalidated."""

    __tablename__ = "cache_outbox"
    __table_args__ = (Index(None, "namespace", "id"),)

    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    tags: Mapped[list[str]] = mapped_column(ARRAY(Text))
    namespace: Mapped[str] = mapped_column(Text)


INSERT = text("INSERT INTO cache_outbox (tags, namespace) VALUES (:tags, :namespace) RETURNING id")
DELETE = text("DELETE FROM cache_outbox WHERE id = ANY(:ids)")
DELETE_EXPIRED = text("""
    DELETE FROM cache_outbox
    WHERE namespace = :namespace
      AND created_at < clock_timestamp() - make_interval(secs => :age_seconds)
""")
# The ages are the database's: the clocks of processes differ. In the order of their ids the oldest
# rows come first, whatever the clock did.
READ = text("""
    SELECT pg_is_in_recovery(), noted.id, noted.tags, noted.age
    FROM (VALUES (1)) AS always LEFT JOIN (
        SELECT id, tags, extract(epoch FROM clock_timestamp() - created_at)::float AS age
        FROM cache_outbox WHERE namespace = :namespace ORDER BY id LIMIT :most
    ) AS noted ON true
""")


@dataclass(frozen=True, slots=True)
class Change:
    """A row. Its age is infinite if it was created in the future: the clock was set back."""

    id: int
    tags: Sequence[str]
    age_seconds: float


@dataclass(frozen=True, slots=True)
class Look:
    """The oldest rows, as they were at some moment after `began`, of time.monotonic()."""

    began: float
    changes: Sequence[Change]

    @property
    def is_whole(self) -> bool:
        """Whether there are no more rows than these."""
        return len(self.changes) < ROWS_AT_ONCE


async def insert_change(session: AsyncSession, namespace: str, tags: Sequence[str]) -> int:
    """Insert a row into the transaction of the change, and return its id."""
    values = {"tags": tags, "namespace": namespace}
    inserted: int = (await session.execute(INSERT, values)).scalar_one()
    return inserted


class Outbox:
    """The rows of one namespace, over a connection that nothing else waits for or holds."""

    def __init__(self, engine: AsyncEngine, namespace: str) -> None:
        self._engine = engine
        self._namespace = namespace

    async def look(self) -> Look:
        """Read the oldest rows, without locks. A database that is no primary is `Unavailable`."""
        async with self._engine.connect() as connection:
            began = time.monotonic()
            values = {"namespace": self._namespace, "most": ROWS_AT_ONCE}
            rows = [tuple(row) for row in await connection.execute(READ, values)]
            if rows[0][0]:
                await connection.invalidate()
                raise Unavailable("The database is a standby.")
        changes = [
            Change(row_id, tags, age if age >= 0 else FUTURE)
            for _, row_id, tags, age in rows
            if row_id is not None
        ]
        return Look(began, changes)

    async def delete(self, ids: Sequence[int]) -> None:
        """Delete rows that are done."""
        async with self._engine.connect() as connection:
            await connection.execute(DELETE, {"ids": ids})

    async def delete_expired(self, age_seconds: float) -> int:
        """Delete the rows that are older, and return how many there were."""
        async with self._engine.connect() as connection:
            values = {"namespace": self._namespace, "age_seconds": age_seconds}
            return (await connection.execute(DELETE_EXPIRED, values)).rowcount


@asynccontextmanager
async def open_outbox(
    settings: DatabaseSettings, namespace: str, application_name: str
) -> AsyncIterator[Outbox]:
    """Open the outbox with a connection of its own, which is made at its first use.

    The pool of the requests would make the looks wait when it is exhausted, and distrust would then
    send even more reads to that pool. Start-up counts this connection: see `capacity.py`.
    """
    own = {
        "pool_size": 1,
        "command_timeout_seconds": STATEMENT_SECONDS,
        "statement_timeout_seconds": SERVER_SECONDS,
    }
    engine = open_engine(settings.model_copy(update=own), application_name)
    try:
        yield Outbox(engine.execution_options(isolation_level="AUTOCOMMIT"), namespace)
    finally:
        await engine.dispose()
