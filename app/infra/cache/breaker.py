"""Stops asking a Valkey that does not answer or is slow, and asks again soon, one caller first."""

import logging
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager

from app.infra.cache.overdue import Overdue

logger = logging.getLogger(__name__)

FAILURES = 3
SLOW_LOOK_UPS = 5
SHORTEST_SECONDS, LONGEST_SECONDS = 0.5, 1.0
NEVER = 3_600.0


class Breaker:
    """Opens after three failures or five slow look-ups in a row; then one probe at a time decides.

    Only look-ups are timed: there is one at a time, so that one stall of Valkey counts once. Other
    commands neither count as slow nor close a breaker that was opened by slow look-ups.
    """

    def __init__(self, slow_seconds: float = NEVER) -> None:
        self.slow_seconds = slow_seconds
        self._failures = 0
        self._slow = 0
        self._closed_again_at = 0.0
        self._error = ""

    @property
    def is_open(self) -> bool:
        """Whether nobody is let through but the probe."""
        return self._failures >= FAILURES or self._slow >= SLOW_LOOK_UPS

    def allows(self) -> bool:
        """Whether to ask. Whoever is allowed while it is open is the probe."""
        if not self.is_open:
            return True
        now = time.monotonic()
        if now < self._closed_again_at:
            return False
        self._closed_again_at = now + LONGEST_SECONDS
        return True

    def succeeded(self) -> None:
        """Note an answer, be it slow or not."""
        self._note(0, self._slow)

    def failed(self, error: Exception) -> None:
        """Note an error or a timeout."""
        # As text: the exception itself would keep the frames of its traceback.
        self._error = f"{type(error).__name__}: {error}".partition("\n")[0]
        self._note(self._failures + 1, self._slow)

    @contextmanager
    def timing_look_up(self) -> Iterator[None]:
        """Note whether a look-up takes longer than `slow_seconds`."""
        was_slow = False

        def note_slow() -> None:
            nonlocal was_slow
            was_slow = True
            self._note(self._failures, self._slow + 1)

        overdue = Overdue(self.slow_seconds, note_slow)
        try:
            yield
        finally:
            overdue.cancel()
        if not was_slow:
            self._note(self._failures, 0)

    def _note(self, failures: int, slow: int) -> None:
        was_open, is_worse = self.is_open, failures > self._failures or slow > self._slow
        self._failures, self._slow = failures, slow
        if self.is_open and is_worse:
            pause = random.uniform(SHORTEST_SECONDS, LONGEST_SECONDS)  # noqa: S311 - jitter
            self._closed_again_at = time.monotonic() + pause
        if self.is_open and not was_open:
            if failures < FAILURES:
                logger.warning("Valkey is slow: reads go past the cache.")
            else:
                logger.warning(
                    "Valkey does not answer: reads go past the cache (%s). If Valkey is running, "
                    "correct VALKEY_URL.",
                    self._error,
                )
        elif was_open and not self.is_open:
            logger.warning("Valkey answers again.")
