"""A timeout that does not blame the other side for a delay of this process."""

import asyncio
from collections.abc import Callable

# The event loop needs this many turns to read data that has arrived and to wake the waiting task.
TURNS = 8


class OverdueTimer:
    """Calls `callback` when the expected data has not arrived after `seconds`.

    A busy process reads its sockets late. So when the time is up, the event loop first runs for a
    few turns. Data that has already arrived is read in these turns, and the reader calls `cancel`.
    """

    def __init__(self, seconds: float, callback: Callable[[], object]) -> None:
        self._loop = asyncio.get_running_loop()
        self._callback = callback
        self._handle: asyncio.Handle = self._loop.call_later(seconds, self._run_turn, TURNS)

    def cancel(self) -> None:
        self._handle.cancel()

    def _run_turn(self, turns_left: int) -> None:
        if turns_left:
            self._handle = self._loop.call_soon(self._run_turn, turns_left - 1)
        else:
            self._callback()
