"""A circuit breaker that keeps reads away from Valkey while it is unreachable or slow."""

import logging
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager

from coherent_cache.budget import OverdueTimer

logger = logging.getLogger(__name__)

# The breaker opens after this many of either in a row.
FAILURES_TO_OPEN = 3
SLOW_LOOK_UPS_TO_OPEN = 5
MIN_OPEN_SECONDS, MAX_OPEN_SECONDS = 0.5, 1.0  # before the next probe


class Breaker:
    """Opens after three failures or five slow look-ups in a row. Then one probe at a time decides.

    Only look-ups are timed. A process has at most one look-up in flight, so one stall of Valkey
    counts once. Other commands never count as slow, and they do not close a breaker that slow
    look-ups have opened.
    """

    def __init__(self, slow_seconds: float) -> None:
        self._slow_seconds = slow_seconds
        self._failures = 0
        self._slow = 0
        self._next_probe_at = 0.0
        self._error = ""

    @property
    def is_open(self) -> bool:
        """Whether only probes may use Valkey."""
        return self._failures >= FAILURES_TO_OPEN or self._slow >= SLOW_LOOK_UPS_TO_OPEN

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
        self._update(0, self._slow)

    def failed(self, error: Exception) -> None:
        # Keep the text only: the exception would keep the frames of its traceback alive.
        self._error = f"{type(error).__name__}: {error}".partition("\n")[0]
        self._update(self._failures + 1, self._slow)

    @contextmanager
    def timing_look_up(self) -> Iterator[None]:
        """Record whether a look-up takes longer than `slow_seconds`."""
        was_slow = False

        def note_slow() -> None:
            nonlocal was_slow
            was_slow = True
            self._update(self._failures, self._slow + 1)

        overdue = OverdueTimer(self._slow_seconds, note_slow)
        try:
            yield
        finally:
            overdue.cancel()
        if not was_slow:
            self._update(self._failures, 0)

    def _update(self, failures: int, slow: int) -> None:
        was_open, is_worse = self.is_open, failures > self._failures or slow > self._slow
        self._failures, self._slow = failures, slow
        if self.is_open and is_worse:
            pause = random.uniform(MIN_OPEN_SECONDS, MAX_OPEN_SECONDS)  # noqa: S311 - jitter
            self._next_probe_at = time.monotonic() + pause
        if self.is_open and not was_open:
            if failures < FAILURES_TO_OPEN:
                logger.warning("Valkey is slow. Reads bypass the cache.")
            else:
                logger.warning(
                    "Valkey does not answer (%s). Reads bypass the cache. If Valkey is running, "
                    "correct VALKEY_URL.",
                    self._error,
                )
        elif was_open and not self.is_open:
            logger.warning("Valkey answers again.")
