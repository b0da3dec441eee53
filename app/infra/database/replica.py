"""A streaming replica, for reads that may lag. It is asked while it is known to keep up.

How old its data is, is measured against the primary's position in the write-ahead log, twice a
second: a replica is as old as the youngest position that it has passed. That needs no privilege, no
clock but our own, and no replication that works: what hears nothing any more grows old.
"""

import logging
import time
from asyncio import sleep
from collections import deque
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from app.errors import Unavailable
from app.infra.database.engine import open_engine
from app.infra.database.pool import PoolExhausted
from app.infra.database.sessions import Database
from app.infra.database.settings import DatabaseSettings
from app.infra.observability.background import in_background
from app.infra.observability.metrics import REPLICA_LAG

logger = logging.getLogger(__name__)

CHECK_SECONDS = 0.5
# Below the pool's timeout: when it is exhausted by a replica that is frozen, that is known.
SILENT_SECONDS = 0.9
MOST_POSITIONS = 600
QUERY_CANCELED = "57014"  # by statement_timeout
POSITION = text("SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint")
# The second is empty where there was never anything to replay: at what is no replica.
REPLAYED = text(
    "SELECT pg_is_in_recovery(), pg_wal_lsn_diff(pg_last_wal_replay_lsn(), '0/0')::bigint"
)
FAILURES = (Unavailable, SQLAlchemyError)


class Replica:
    """Whether to read there, and the sessions to do it. `checks` has a connection of its own."""

    def __init__(
        self, database: Database, checks: Database, primary: Database, most_lag_seconds: float
    ) -> None:
        self.database = database
        self._checks = checks
        self._primary = primary
        self._most_lag_seconds = most_lag_seconds
        self._passed_at = self._answered_at = float("-inf")
        self._positions: deque[tuple[float, int]] = deque(maxlen=MOST_POSITIONS)
        self._state = "not reached"

    @property
    def lag_seconds(self) -> float:
        """How old what is read there may be at this moment; infinite while it is not known."""
        return time.monotonic() - self._passed_at

    @property
    def is_up_to_date(self) -> bool:
        """Whether to read there."""
        is_silent = time.monotonic() - self._answered_at > SILENT_SECONDS
        return not is_silent and self.lag_seconds <= self._most_lag_seconds

    def should_retry_on_primary(self, error: Unavailable | DBAPIError) -> bool:
        """Whether the primary may do what failed here. One that is away is not asked again soon.

        A query that takes too long does so anywhere, and a pool that is exhausted by a replica that
        answers is no reason to exhaust the primary's. All else may be: a conflict with what is
        replayed, a schema that is not there yet.
        """
        if isinstance(error, DBAPIError):
            if error.connection_invalidated:
                self.distrust()
            return getattr(error.orig, "sqlstate", None) != QUERY_CANCELED
        if isinstance(error, PoolExhausted):
            return not self.is_up_to_date
        self.distrust()
        return True

    def distrust(self) -> None:
        """Do not read there before the next check has passed."""
        self._passed_at = float("-inf")

    def measure(self) -> None:
        """Set the gauge of this process."""
        REPLICA_LAG.set(self.lag_seconds)

    async def run(self) -> None:
        """Check until cancelled."""
        while True:
            try:
                self._tell(await self._check())
            except FAILURES:
                self.distrust()
                self._tell("not reached")
            except BaseException:
                self.distrust()
                raise
            await sleep(CHECK_SECONDS)

    async def _check(self) -> str:
        now = time.monotonic()
        with suppress(*FAILURES):  # then the replica grows old
            async with self._primary.read() as session:
                self._note(now, (await session.execute(POSITION)).scalar_one())
        async with self._checks.read() as session:
            is_replica, replayed = (await session.execute(REPLAYED)).one()
        self._answered_at = time.monotonic()
        if not is_replica:
            self.distrust()
            return "no replica (any more)"
        while self._positions and self._positions[0][1] <= replayed:
            self._passed_at = self._positions.popleft()[0]
        return "in use" if self.is_up_to_date else "too far behind"

    def _note(self, now: float, position: int) -> None:
        # After a failover the log goes on from where the new primary was.
        while self._positions and self._positions[-1][1] > position:
            self._positions.pop()
        self._positions.append((now, position))

    def _tell(self, state: str) -> None:
        """Log what has changed."""
        if state != self._state:
            self._state = state
            logger.warning("The database's replica is %s", state)


@asynccontextmanager
async def open_replica(
    settings: DatabaseSettings, url: SecretStr, primary: Database, application_name: str
) -> AsyncIterator[Replica]:
    """Open the replica's pool, as large as the primary's, and watch how it keeps up."""
    there = settings.model_copy(update={"url": url})
    impatient = {"connect_timeout_seconds": CHECK_SECONDS, "command_timeout_seconds": CHECK_SECONDS}
    one = there.model_copy(update={"pool_size": 1, **impatient})
    async with AsyncExitStack() as stack:
        database = Database(open_engine(there, application_name))
        stack.push_async_callback(database.close)
        checks = Database(open_engine(one, application_name))
        stack.push_async_callback(checks.close)
        replica = Replica(database, checks, primary, settings.replica_lag_seconds)
        await stack.enter_async_context(in_background(replica.run, "database replica"))
        yield replica
