"""How many requests a worker runs at a time: some run, some wait their turn for a moment.

Past that it is better to refuse at once than to let everybody wait for longer than they have
patience for. Whoever waits is served in the order in which they came.
"""

import asyncio

from app.errors import Unavailable
from app.infra.metrics import IN_FLIGHT, REFUSED
from app.sections import LimitsSettings


class InFlight:
    """The places of one process."""

    def __init__(self, limits: LimitsSettings) -> None:
        self.running = self.queued = self.streams = 0
        self._limits = limits
        self._places = asyncio.Semaphore(limits.running)

    async def enter(self) -> None:
        """Take a place, or raise `Unavailable`."""
        if self._places.locked():
            await self._wait()
        else:
            await self._places.acquire()  # there is one: it does not wait
        self.running += 1

    def leave(self) -> None:
        """Give the place back."""
        self.running -= 1
        self._places.release()

    def begin_stream(self) -> None:
        """Become a stream, which takes no place and may go on for hours; or raise `Unavailable`."""
        if self.streams >= self._limits.streams:
            REFUSED.labels("streams").inc()
            raise Unavailable("There are as many streams as there may be.")
        self.streams += 1

    def end_stream(self) -> None:
        """Have ended."""
        self.streams -= 1

    def measure(self) -> None:
        """Set the gauges of this process."""
        for state in ("running", "queued", "streams"):
            IN_FLIGHT.labels(state).set(getattr(self, state))

    async def _wait(self) -> None:
        if self.queued >= self._limits.queued:
            raise self._refused()
        self.queued += 1
        try:
            async with asyncio.timeout(self._limits.queue_seconds):
                await self._places.acquire()
        except TimeoutError:
            raise self._refused() from None
        finally:
            self.queued -= 1

    def _refused(self) -> Unavailable:
        REFUSED.labels("in_flight").inc()
        return Unavailable("There are more requests than this process can answer in time.")
