"""Tells a late answer from an answer that arrived in time but has not been read yet."""

import asyncio
from collections.abc import Callable

# So many iterations of the event loop read an answer that has arrived, and wake the waiting task.
LOOP_ITERATIONS = 8


class OverdueTimer:
    """Calls `callback` when `seconds` have passed and the answer has still not arrived.

    A busy process reads its sockets late. When the time is up, the timer therefore lets the event
    loop run a few iterations first. If the answer has arrived, one of these iterations reads it,
    and the waiting task calls `cancel`.
    """

    def __init__(self, seconds: float, callback: Callable[[], object]) -> None:
        self._loop = asyncio.get_running_loop()
        self._callback = callback
        self._handle: asyncio.Handle = self._loop.call_later(seconds, self._wait, LOOP_ITERATIONS)

    def cancel(self) -> None:
        """Stop the timer, because the answer was read."""
        self._handle.cancel()

    def _wait(self, iterations: int) -> None:
        if iterations:
            self._handle = self._loop.call_soon(self._wait, iterations - 1)
        else:
            self._callback()
