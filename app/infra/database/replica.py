"""A streaming replica, for reads that may lag. It is used only while its lag is known to be small.

Twice a second the position of the primary in the write-ahead log is recorded with the time. The lag
is the age of the newest recorded position that the replica has replayed. This needs no privileges
and only the clock of this process. When replication stops, the lag grows.
"""

import logging
import time
from asyncio import sleep, timeout
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
POSITION_SECONDS = 0.3  # with CHECK_SECONDS, less than UNANSWERED_SECONDS
# Shorter than the pool timeout: a frozen replica is noticed before it has exhausted the pool.
UNANSWERED_SECONDS = 0.9
MAX_POSITIONS = 600
QUERY_CANCELED = "57014"  # statement_timeout
POSITION = text("SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint")
REPLAYED = text(
    "SELECT pg_is_in_recovery(), pg_wal_lsn_diff(pg_last_wal_replay_lsn(), '0/0')::bigint"
)
FAILURES = (Unavailable, SQLAlchemyError)


class Replica:
    """Sessions of the replica, and whether to use them. `checks` has its own connection."""

    def __init__(
        self, database: Database, checks: Database, primary: Database, max_lag_seconds: float
    ) -> None:
        self.database = database
        self._checks = checks
        self._primary = primary
        self._max_lag_seconds = max_lag_seconds
        self._up_to_date_at = self._answered_at = self._distrusted_at = float("-inf")
        self._positions: deque[tuple[float, int]] = deque(maxlen=MAX_POSITIONS)
        self._state = "unreachable"

    @property
    def lag_seconds(self) -> float:
        """How old a row read from the replica may be. Infinite while that is unknown."""
        return time.monotonic() - self._up_to_date_at

    @property
    def is_up_to_date(self) -> bool:
        is_answering = time.monotonic() - self._answered_at <= UNANSWERED_SECONDS
        return is_answering and self.lag_seconds <= self._max_lag_seconds

    def should_retry_on_primary(self, error: Unavailable | DBAPIError) -> bool:
        """Return whether the primary may succeed where the replica failed.

        Not for a statement timeout, and not while a replica that answers is merely busy: the same
        load would exhaust the primary too. Everything else may be specific to the replica, such as
        a conflict with replayed changes. A replica that is unreachable is not used until the next
        check succeeds.
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
        """Do not use the replica before a check that begins after this succeeds."""
        self._up_to_date_at = float("-inf")
        self._distrusted_at = time.monotonic()

    def measure(self) -> None:
        REPLICA_LAG.set(self.lag_seconds)

    async def run(self) -> None:
        """Check the replica until cancelled."""
        while True:
            try:
                self._log_state(await self._check())
            except FAILURES:
                self.distrust()
                self._log_state("unreachable")
            except BaseException:
                self.distrust()
                raise
            await sleep(CHECK_SECONDS)

    async def _check(self) -> str:
        now = time.monotonic()
        # Without new positions the lag grows. A full pool of the primary must not delay the check
        # of the replica, which is needed most at that time.
        with suppress(*FAILURES, TimeoutError):
            async with timeout(POSITION_SECONDS), self._primary.read() as session:
                self._record(now, (await session.execute(POSITION)).scalar_one())
        async with self._checks.read() as session:
            is_replica, replayed = (await session.execute(REPLAYED)).one()
        if self._distrusted_at >= now:  # its connection was lost while this check was running
            return "unreachable"
        self._answered_at = time.monotonic()
        if not is_replica:
            self.distrust()
            return "not used, because it is a primary"
        while self._positions and self._positions[0][1] <= replayed:
            self._up_to_date_at = self._positions.popleft()[0]
        return "in use" if self.is_up_to_date else "too far behind"

    def _record(self, now: float, position: int) -> None:
        # After a failover the log continues at a lower position.
        while self._positions and self._positions[-1][1] > position:
            self._positions.pop()
        self._positions.append((now, position))

    def _log_state(self, state: str) -> None:
        if state != self._state:
            self._state = state
            logger.warning("Database replica: %s", state)


@asynccontextmanager
async def open_replica(
    settings: DatabaseSettings, url: SecretStr, primary: Database, application_name: str
) -> AsyncIterator[Replica]:
    """Open a pool to the replica, of the same size as the primary's, and start the checks."""
    timeouts = dict.fromkeys(("connect_timeout_seconds", "command_timeout_seconds"), CHECK_SECONDS)
    reads = settings.model_copy(update={"url": url})
    check_settings = reads.model_copy(update={"pool_size": 1, **timeouts})
    async with AsyncExitStack() as stack:
        database = Database(open_engine(reads, application_name))
        stack.push_async_callback(database.close)
        checks = Database(open_engine(check_settings, application_name))
        stack.push_async_callback(checks.close)
        replica = Replica(database, checks, primary, settings.replica_lag_seconds)
        await stack.enter_async_context(in_background(replica.run, "database replica"))
        yield replica
