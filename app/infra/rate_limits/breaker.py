"""Keeps requests away from a Valkey that does not answer, or refuses to write."""

import logging
import random
import time

logger = logging.getLogger(__name__)

FAILURES_TO_OPEN = 3  # in a row
MIN_OPEN_SECONDS, MAX_OPEN_SECONDS = 0.5, 1.0  # before the next probe


class Breaker:
    """Opens after three failures in a row. After that, one batch of requests at a time is a probe.

    `coherent_cache` has a breaker of its own. That one also times look-ups, and its messages are
    about the cache.
    """

    def __init__(self) -> None:
        self._failures = 0
        self._next_probe_at = 0.0

    @property
    def is_open(self) -> bool:
        return self._failures >= FAILURES_TO_OPEN

    def allows(self) -> bool:
        """Whether the caller may use Valkey. While the breaker is open, this admits one probe."""
        if not self.is_open:
            return True
        now = time.monotonic()
        if now < self._next_probe_at:
            return False
        self._next_probe_at = now + MAX_OPEN_SECONDS
        return True

    def succeeded(self) -> None:
        if self.is_open:
            logger.warning("Valkey counts the rate limits again.")
        self._failures = 0

    def failed(self, error: Exception) -> None:
        self._failures += 1
        pause = random.uniform(MIN_OPEN_SECONDS, MAX_OPEN_SECONDS)  # noqa: S311 - jitter
        self._next_probe_at = time.monotonic() + pause
        if self._failures == FAILURES_TO_OPEN:
            logger.warning(
                "Valkey does not count the rate limits (%s: %s). Until it does, each worker counts "
                "for itself. If Valkey is running, correct RATE_LIMITS_URL.",
                type(error).__name__,
                str(error).partition("\n")[0],
            )
