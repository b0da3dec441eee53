"""The table `cache_outbox`: committed changes that may not have been invalidated yet."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

MAX_ROWS = 500
INFINITE_AGE = float("inf")


def outbox_table(metadata: sa.MetaData) -> sa.Table:
    """Declare the table in `metadata`, so that migrations create it.

    A row is inserted in the transaction of the change. It is deleted when all its tags have been
    invalidated.
    """
    now = sa.func.clock_timestamp()
    return sa.Table(
        "cache_outbox",
        metadata,
        sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=now, nullable=False),
        sa.Column("tags", sa.ARRAY(sa.Text), nullable=False),
        sa.Column("namespace", sa.Text, nullable=False),
        sa.Index(None, "namespace", "id"),
    )


INSERT = sa.text(
    "INSERT INTO cache_outbox (tags, namespace) VALUES (:tags, :namespace) RETURNING id"
)
DELETE = sa.text("DELETE FROM cache_outbox WHERE id = ANY(:ids)")
DELETE_EXPIRED = sa.text("""
    DELETE FROM cache_outbox
    WHERE namespace = :namespace
      AND created_at < clock_timestamp() - make_interval(secs => :age_seconds)
""")
# The database computes the ages, because the clocks of the processes differ. The rows are ordered
# by id and not by time, so that the oldest come first even if the clock was set back.
READ = sa.text("""
    SELECT pg_is_in_recovery(), noted.id, noted.tags, noted.age
    FROM (VALUES (1)) AS always LEFT JOIN (
        SELECT id, tags, extract(epoch FROM clock_timestamp() - created_at)::float AS age
        FROM cache_outbox WHERE namespace = :namespace ORDER BY id LIMIT :most
    ) AS noted ON true
""")


@dataclass(frozen=True, slots=True)
class Change:
    """A row of the outbox.

    `age_seconds` is infinite if the row seems to come from the future, because the clock was set
    back.
    """

    id: int
    tags: Sequence[str]
    age_seconds: float


@dataclass(frozen=True, slots=True)
class Poll:
    """The oldest rows, as of some moment after `began`, which is a `time.monotonic()`."""

    began: float
    changes: Sequence[Change]

    @property
    def is_complete(self) -> bool:
        """Whether these are all the rows of the namespace."""
        return len(self.changes) < MAX_ROWS


async def insert_change(session: AsyncSession, namespace: str, tags: Sequence[str]) -> int:
    """Insert a row in the transaction of the change, and return its id."""
    values = {"tags": tags, "namespace": namespace}
    inserted: int = (await session.execute(INSERT, values)).scalar_one()
    return inserted


class StandbyDatabase(Exception):
    """The database is a standby, which may lack the newest rows."""


class Outbox:
    """The rows of one namespace, accessed over a connection that nothing else uses.

    `engine` needs a pool of its own, with one connection. If polls used the pool of the requests,
    they would wait whenever that pool is exhausted. The cache would then be distrusted, which would
    send even more reads to the exhausted pool.
    """

    def __init__(self, engine: AsyncEngine, namespace: str) -> None:
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._namespace = namespace

    async def poll(self) -> Poll:
        """Read the oldest rows, without locking them. Raises `StandbyDatabase` on a standby."""
        async with self._engine.connect() as connection:
            began = time.monotonic()
            values = {"namespace": self._namespace, "most": MAX_ROWS}
            rows = [tuple(row) for row in await connection.execute(READ, values)]
            if rows[0][0]:
                await connection.invalidate()
                raise StandbyDatabase
        changes = [
            Change(row_id, tags, age if age >= 0 else INFINITE_AGE)
            for _, row_id, tags, age in rows
            if row_id is not None
        ]
        return Poll(began, changes)

    async def delete(self, ids: Sequence[int]) -> None:
        async with self._engine.connect() as connection:
            await connection.execute(DELETE, {"ids": ids})

    async def delete_expired(self, age_seconds: float) -> int:
        """Delete the rows that are older than this, and return how many there were."""
        async with self._engine.connect() as connection:
            values = {"namespace": self._namespace, "age_seconds": age_seconds}
            return (await connection.execute(DELETE_EXPIRED, values)).rowcount
