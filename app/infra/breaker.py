"""A circuit breaker for the servers that this process calls: it stops calls that would only fail.

`coherent_cache` has a breaker of its own. That package does not import `app`, and its breaker also
opens for slow look-ups. No library is used: purgatory lets all calls through when its pause is
over, and counts a cancelled call as a failure.
"""

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

FAILURES_TO_OPEN = 3  # in a row
MIN_OPEN_SECONDS, MAX_OPEN_SECONDS = 0.5, 1.0  # before the next probe


class BreakerOpen(Exception):
    """The call was not made, because the calls before it failed."""


class Breaker:
    """Opens after three failures in a row. After a pause, one call at a time is let through.

    That call is the probe. If it succeeds, the breaker closes. If it fails, another pause begins.
    While the breaker is open, only the probe counts: calls that began earlier change nothing.

    `on_open` gets the last error, and `on_close` is called after a successful probe. An instance
    belongs to one event loop.
    """

    def __init__(
        self, on_open: Callable[[Exception], object], on_close: Callable[[], object]
    ) -> None:
        self._on_open = on_open
        self._on_close = on_close
        self._failures = 0
        self._is_probing = False
        self._next_probe_at = 0.0

    @property
    def is_open(self) -> bool:
        return self._failures >= FAILURES_TO_OPEN

    @property
    def admits(self) -> bool:
        """Whether `call` would let a call through now."""
        if not self.is_open:
            return True
        return not self._is_probing and time.monotonic() >= self._next_probe_at

    @contextmanager
    def call(self) -> Iterator[None]:
        """Make a call in the block. Raise `BreakerOpen` before it if no call is let through.

        Each exception of the block is a failure. Let the block raise only for what is the fault of
        the server, and put the time limit inside it: a cancellation is neither a failure nor a
        success, because it is the client that has gone away.
        """
        if not self.admits:
            raise BreakerOpen
        is_probe = self._is_probing = self.is_open
        try:
            yield
        except Exception as error:
            if is_probe or not self.is_open:
                self._failed(error)
            raise
        else:
            if is_probe or not self.is_open:
                self._succeeded()
        finally:
            if is_probe:
                self._is_probing = False

    def _succeeded(self) -> None:
        was_open, self._failures = self.is_open, 0
        if was_open:
            self._on_close()

    def _failed(self, error: Exception) -> None:
        self._failures += 1
        pause = random.uniform(MIN_OPEN_SECONDS, MAX_OPEN_SECONDS)  # noqa: S311 - jitter
        self._next_probe_at = time.monotonic() + pause
        if self._failures == FAILURES_TO_OPEN:
            self._on_open(error)
