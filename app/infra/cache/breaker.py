"""Stops asking a Valkey that does not answer, and asks again soon, one caller first."""

import logging
import random
import time

logger = logging.getLogger(__name__)

FAILURES = 3
SHORTEST_SECONDS, LONGEST_SECONDS = 0.5, 1.0


class Breaker:
    """Opens after three failures in a row; then one probe at a time decides."""

    def __init__(self) -> None:
        self._failures = 0
        self._closed_again_at = 0.0

    @property
    def is_open(self) -> bool:
        """Whether nobody is let through but the probe."""
        return self._failures >= FAILURES

    def allows(self) -> bool:
        """Whether to ask. Whoever is allowed while it is open is the probe."""
        if self._failures < FAILURES:
            return True
        now = time.monotonic()
        if now < self._closed_again_at:
            return False
        self._closed_again_at = now + LONGEST_SECONDS
        return True

    def succeeded(self) -> None:
        """Note an answer."""
        if self._failures >= FAILURES:
            logger.warning("Valkey answers again.")
        self._failures = 0

    def failed(self) -> None:
        """Note an error or a timeout."""
        self._failures += 1
        if self._failures == FAILURES:
            logger.warning("Valkey does not answer: reads go past the cache.")
        if self._failures >= FAILURES:
            pause = random.uniform(SHORTEST_SECONDS, LONGEST_SECONDS)  # noqa: S311 - jitter
            self._closed_again_at = time.monotonic() + pause
