"""Decides whether this process may trust the cache at this moment.

Valkey can answer reads while it refuses invalidations: as a replica after a failover, when its disk
is full, when it has too few replicas, or when its user lacks a permission. Entries then become
stale. Every change is also recorded in the table `cache_outbox` until it is invalidated, so the
relay, which polls that table, knows when entries may be stale.
"""

import logging
import time

from coherent_cache.cache_metrics import DISTRUSTED, OUTBOX_OLDEST
from coherent_cache.memory import Memory

logger = logging.getLogger(__name__)

LEASE_SECONDS = 1.0
MAX_BEHIND_SECONDS = 1.0
NEVER = float("-inf")
REFUSED = "Valkey refuses writes"


class Trust:
    """A lease that a clean poll of the outbox grants. It expires unless another poll renews it.

    A poll is clean if every change that was recorded more than MAX_BEHIND_SECONDS before the poll
    began has been invalidated. A read relies on a clean poll that began less than LEASE_SECONDS
    before the read. It therefore shows every write that was acknowledged two seconds earlier.
    """

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._until = NEVER
        self._has_lasted = False
        self._reason = "no poll of the outbox has finished yet"
        self._is_reported = False
        self._failed_at = NEVER
        self._error = ""
        self._behind_seconds = 0.0

    @property
    def holds(self) -> bool:
        """Whether the cache may be trusted. Compares clocks, so it is false after a suspension."""
        return time.monotonic() < self._until

    def __str__(self) -> str:
        """Return the status for /readyz. That is public, so an error is named by its class only."""
        if self.holds:
            return "trusted"
        if self._until > NEVER:
            late = time.monotonic() - self._until + LEASE_SECONDS
            return f"distrusted: the last clean poll of the outbox began {late:.1f} s ago"
        return f"distrusted: {self._reason}"

    def note_failure(self, error: Exception) -> None:
        """Record that this process failed to invalidate. A later poll may show that a relay did."""
        self._failed_at = time.monotonic()
        self._error = _in_one_line(error)

    def polled(self, began: float, behind_seconds: float, refusal: Exception | None = None) -> None:
        """Grant or withdraw the lease after a poll that `began` at this `time.monotonic()`.

        Every change recorded more than `behind_seconds` before that has been invalidated.
        `refusal` is the error with which Valkey refused the probe write, if it did.
        """
        self._behind_seconds = behind_seconds
        if self._failed_at < began - behind_seconds:
            self._failed_at = NEVER
        if refusal is not None:
            self.withdraw(REFUSED, refusal)
        elif behind_seconds > MAX_BEHIND_SECONDS:
            self.withdraw(f"a change has waited {behind_seconds:.1f} s for its invalidation")
        else:
            self._grant(began)

    def database_unavailable(self, began: float) -> None:
        """Renew a lease without a poll, so that cached reads continue without the database.

        Distrust stays distrust. The lease is withdrawn if an invalidation of this process failed,
        because only a poll could show that a relay has repeated it. A lease that expired after the
        poll `began` is not renewed, because the process may have been suspended. The next poll
        decides.
        """
        if self._until == NEVER:
            return
        if self._failed_at > NEVER:
            self.withdraw("an invalidation failed, and the database does not answer")
        elif self.holds or self._until <= began:
            self._grant(time.monotonic())

    def withdraw(self, reason: str, error: Exception | None = None) -> None:
        """End the lease until a poll is clean again. Logs this once, with the last known error."""
        if error is not None:
            self._error = _in_one_line(error)
        self._reason = f"{reason} ({self._error.partition(':')[0]})" if self._error else reason
        self._until = NEVER
        if not self._is_reported:
            self._is_reported = True
            why = f"{reason} ({self._error})" if self._error else reason
            logger.warning("The cache is distrusted. Reads go to the database. Reason: %s", why)

    def measure(self) -> None:
        DISTRUSTED.set(not self.holds)
        OUTBOX_OLDEST.set(self._behind_seconds)

    def _grant(self, began: float) -> None:
        """Renew the lease. If it had ended, clear the memory, whose entries may be stale."""
        if not self.holds:
            self._memory.clear()
            if self._until > NEVER:
                late = time.monotonic() - self._until
                # The first lease may expire during start-up, before anything is read.
                level = logging.WARNING if self._has_lasted else logging.INFO
                logger.log(level, "The cache was distrusted for %.1f s: a poll came late.", late)
        else:
            self._has_lasted = True
        if self._is_reported:
            self._is_reported = False
            logger.info("The cache is trusted again.")
        if self._failed_at == NEVER:
            self._error = ""
        self._until = began + LEASE_SECONDS


def _in_one_line(error: Exception) -> str:
    """Return the class and the first line of an error. Other lines contain the SQL statement."""
    text = str(error).partition("\n")[0]
    return f"{type(error).__name__}: {text}"
