"""Whether this process may believe the cache at this moment.

Valkey can answer reads and refuse the invalidations: a replica after a failover, a full disk, too
few replicas, a missing permission. Every change is also noted in the table `cache_outbox` until it
is invalidated, so the relay, which looks at that table, knows when entries may be stale.
"""

import logging
import time

from app.infra.cache.memory import Memory
from app.infra.metrics import CACHE_BEHIND, CACHE_DISTRUSTED

logger = logging.getLogger(__name__)

LEASE_SECONDS = 1.0
BEHIND_SECONDS = 1.0
NEVER = float("-inf")
REFUSED = "Valkey refuses writes"


class Trust:
    """A lease that a clean look at the outbox grants. It ends by itself when no look renews it.

    A look is clean if every change that was noted more than BEHIND_SECONDS before it began is
    invalidated. A read relies on a look that began less than LEASE_SECONDS before the read, so it
    shows every write that was acknowledged two seconds earlier.
    """

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._until = NEVER
        self._has_lasted = False
        self._reason = "no look at the outbox has ended yet"
        self._is_reported = False
        self._failed_at = NEVER
        self._error = ""
        self._behind_seconds = 0.0

    @property
    def holds(self) -> bool:
        """Whether the cache may be believed. Computed anew: a process that was stopped has none."""
        return time.monotonic() < self._until

    def __str__(self) -> str:
        """Say it for /readyz, which anybody may ask: an error is named there by its class alone."""
        if self.holds:
            return "trusted"
        if self._until > NEVER:
            late = time.monotonic() - self._until + LEASE_SECONDS
            return f"distrusted: the last clean look at the outbox began {late:.1f} s ago"
        return f"distrusted: {self._reason}"

    def note_failure(self, error: Exception) -> None:
        """Note that this process could not invalidate; a later look tells if it was made up for."""
        self._failed_at = time.monotonic()
        self._error = _in_one_line(error)

    def looked(self, began: float, behind_seconds: float, refusal: Exception | None = None) -> None:
        """Judge a look: what was noted more than `behind_seconds` before it began is invalidated.

        `refusal` is the error with which Valkey refused a write meanwhile.
        """
        self._behind_seconds = behind_seconds
        if self._failed_at < began - behind_seconds:
            self._failed_at = NEVER
        if refusal is not None:
            self.withdraw(REFUSED, refusal)
        elif behind_seconds > BEHIND_SECONDS:
            self.withdraw(f"a change has waited {behind_seconds:.1f} s for its invalidation")
        else:
            self._grant(began)

    def database_is_silent(self, began: float) -> None:
        """Keep the last verdict, so that cached reads go on while the database is away.

        The verdict is not kept if an invalidation of this process failed: the look that would tell
        whether another process has made up for it cannot be had. Nor is it kept if the lease ended
        after the look `began`. The process may have been stopped then, so that it was late to read
        an answer that had arrived. The next look tells.
        """
        if self._until == NEVER:
            return
        if self._failed_at > NEVER:
            self.withdraw("an invalidation failed, and the database does not answer")
        elif self.holds or self._until <= began:
            self._grant(time.monotonic())

    def withdraw(self, reason: str, error: Exception | None = None) -> None:
        """Believe nothing until a look is clean again. Logged once, with the last known error."""
        if error is not None:
            self._error = _in_one_line(error)
        self._reason = f"{reason} ({self._error.partition(':')[0]})" if self._error else reason
        self._until = NEVER
        if not self._is_reported:
            self._is_reported = True
            why = f"{reason} ({self._error})" if self._error else reason
            logger.warning("The cache is distrusted, reads go to the database: %s", why)

    def measure(self) -> None:
        """Set the gauges of this process."""
        CACHE_DISTRUSTED.set(not self.holds)
        CACHE_BEHIND.set(self._behind_seconds)

    def _grant(self, began: float) -> None:
        """Renew the lease. What the memory kept through a time without one may be stale."""
        if not self.holds:
            self._memory.clear()
            if self._until > NEVER:
                late = time.monotonic() - self._until
                # The first lease may run out during the start, before anything is read.
                level = logging.WARNING if self._has_lasted else logging.INFO
                logger.log(level, "The cache was distrusted for %.1f s: a look came late.", late)
        else:
            self._has_lasted = True
        if self._is_reported:
            self._is_reported = False
            logger.info("The cache is trusted again.")
        if self._failed_at == NEVER:
            self._error = ""
        self._until = began + LEASE_SECONDS


def _in_one_line(error: Exception) -> str:
    """Name the class of an error and what is wrong. Further lines are the statement that failed."""
    text = str(error).partition("\n")[0]
    return f"{type(error).__name__}: {text}"
