"""Tells an answer that comes late from an answer that this process is late to read."""

import asyncio
from collections.abc import Callable

# Turns of the event loop in which it reads an arrived answer and wakes the waiting task.
TURNS = 8


class Overdue:
    """Calls back when `seconds` have passed and the answer has still not arrived.

    A busy process reads its sockets late. So when the time is up, the loop first turns a few times:
    an answer that had arrived is read in these, and its reader calls `cancel`.
    """

    def __init__(self, seconds: float, callback: Callable[[], object]) -> None:
        self._loop = asyncio.get_running_loop()
        self._callback = callback
        self._handle: asyncio.Handle = self._loop.call_later(seconds, self._turn, TURNS)

    def cancel(self) -> None:
        """Note that the answer is there."""
        self._handle.cancel()

    def _turn(self, left: int) -> None:
        if left:
            self._handle = self._loop.call_soon(self._turn, left - 1)
        else:
            self._callback()
