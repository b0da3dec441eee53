"""The table `cache_outbox`: committed changes that may not have been invalidated yet."""

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

MAX_ROWS = 500
INFINITE_AGE = float("inf")

# Runs a statement outside a transaction and returns its rows: fetch(sql, *values).
Fetch = Callable[..., Awaitable[Sequence[Sequence[Any]]]]
# Runs a statement in the transaction of a session: fetch_in(session, sql, *values).
FetchIn = Callable[..., Awaitable[Sequence[Sequence[Any]]]]


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


INSERT = "INSERT INTO cache_outbox (tags, namespace) VALUES ($1, $2) RETURNING id"
DELETE = "DELETE FROM cache_outbox WHERE id = ANY($1)"
DELETE_EXPIRED = """
    DELETE FROM cache_outbox
    WHERE namespace = $1 AND created_at < clock_timestamp() - make_interval(secs => $2)
    RETURNING id
"""
# The database computes the ages, because the clocks of the processes differ. The rows are ordered
# by id and not by time, so that the oldest come first even if the clock was set back. A standby may
# lack the newest rows. It refuses pg_current_xact_id(), with the SQLSTATE 25006.
READ = """
    SELECT noted.id, noted.tags, noted.age, always.on_primary
    FROM (SELECT CASE WHEN pg_is_in_recovery() THEN pg_current_xact_id() END) AS always(on_primary)
    LEFT JOIN (
        SELECT id, tags, extract(epoch FROM clock_timestamp() - created_at)::float AS age
        FROM cache_outbox WHERE namespace = $1 ORDER BY id LIMIT $2
    ) AS noted ON true
"""


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


async def fetch_in(session: AsyncSession, sql: str, *values: Any) -> Sequence[Sequence[Any]]:
    """Run a statement in the transaction of a session, and return its rows."""
    connection = await session.connection()
    return (await connection.exec_driver_sql(sql, values)).all()


class Outbox:
    """The rows of one namespace, accessed over a connection that nothing else uses.

    If polls used the pool of the requests, they would wait whenever that pool is exhausted. The
    cache would then be distrusted, which would send even more reads to the exhausted pool.
    """

    def __init__(self, fetch: Fetch, namespace: str) -> None:
        self._fetch = fetch
        self._namespace = namespace

    async def poll(self) -> Poll:
        """Read the oldest rows, without locking them. On a standby this fails."""
        began = time.monotonic()
        changes = [
            Change(row_id, tags, age if age >= 0 else INFINITE_AGE)
            for row_id, tags, age, _ in await self._fetch(READ, self._namespace, MAX_ROWS)
            if row_id is not None
        ]
        return Poll(began, changes)

    async def delete(self, ids: Sequence[int]) -> None:
        await self._fetch(DELETE, ids)

    async def delete_expired(self, age_seconds: float) -> int:
        """Delete the rows that are older than this, and return how many there were."""
        return len(await self._fetch(DELETE_EXPIRED, self._namespace, age_seconds))
