"""Runs functions that need much CPU time, or native code that may crash, in other processes.

`anyio.to_process` keeps processes and kills the one whose call is cancelled. This adds a limit on
the calls that wait, and limits on time, CPU time and memory.
"""

import asyncio
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar, TypeVarTuple

from anyio import BrokenWorkerProcess, CapacityLimiter
from anyio.to_process import run_sync

from app.errors import Unavailable
from app.infra.observability.metrics import PROCESS_POOL_CALLS, REFUSED

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

# With uvloop, anyio raises the second one for a process that has died before it is killed.
DIED = (BrokenWorkerProcess, ProcessLookupError)
WARM_AFTER_SECONDS = 3.0
NICENESS = 10  # a tenth of the CPU time of the process that answers requests
TOO_MANY = "Too many files are being processed. Try again in a moment."
TOO_SLOW = "Processing the file took too long."


class ProcessPool:
    """Runs at most `size` calls at the same time, and lets `queue` more wait for `queue_seconds`.

    A call that takes longer than `seconds` is killed. All of these raise `Unavailable`. So does a
    call whose process dies twice. Functions must be at the top of a module, and their module should
    import little, because each process imports it.
    """

    def __init__(
        self, size: int, *, queue: int, queue_seconds: float, seconds: float, memory_bytes: int
    ) -> None:
        self._limiter = CapacityLimiter(size)
        self._slots = asyncio.Semaphore(size)
        self._places = size + queue
        self._taken = 0
        self._queue_seconds = queue_seconds
        self._seconds = seconds
        self._memory_bytes = memory_bytes

    async def run(self, function: Callable[[*Ts], T], *arguments: *Ts) -> T:
        """Return what the function returns, or raise what it raises."""
        if self._taken >= self._places:
            raise self._refused(TOO_MANY)
        self._count(+1)
        try:
            return await self._run_in_turn(function, *arguments)
        finally:
            self._count(-1)

    async def warm(self, function: Callable[[], object]) -> None:
        """Start one process soon, so that the first call does not have to. It imports the module.

        This waits, because it would compete with the start of the service itself.
        """
        await asyncio.sleep(WARM_AFTER_SECONDS)
        with suppress(Unavailable):
            await self.run(function)

    async def _run_in_turn(self, function: Callable[[*Ts], T], *arguments: *Ts) -> T:
        try:
            async with asyncio.timeout(self._queue_seconds):
                await self._slots.acquire()
        except TimeoutError:
            raise self._refused(TOO_MANY) from None
        try:
            async with asyncio.timeout(self._seconds):
                try:
                    return await self._call(function, *arguments)
                except DIED:  # perhaps it was killed while it was idle
                    return await self._call(function, *arguments)
        except (TimeoutError, *DIED):
            raise self._refused(TOO_SLOW) from None
        finally:
            self._slots.release()

    async def _call(self, function: Callable[[*Ts], T], *arguments: *Ts) -> T:
        limits = int(self._seconds) + 1, self._memory_bytes
        return await run_sync(
            _limited, limits, function, *arguments, cancellable=True, limiter=self._limiter
        )

    def _count(self, change: int) -> None:
        self._taken += change
        PROCESS_POOL_CALLS.set(self._taken)

    def _refused(self, detail: str) -> Unavailable:
        REFUSED.labels("process_pool").inc()
        return Unavailable(detail)


def _limited(limits: tuple[int, int], function: Callable[[*Ts], T], *arguments: *Ts) -> T:
    """Run a function in the other process, within limits on CPU time and memory.

    The limit on CPU time ends a process whose parent was killed.
    """
    import resource  # it exists on Unix only

    seconds, memory_bytes = limits
    usage = resource.getrusage(resource.RUSAGE_SELF)
    used = int(usage.ru_utime + usage.ru_stime)
    resource.setrlimit(resource.RLIMIT_CPU, (used + seconds, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, 0, NICENESS)
    return function(*arguments)
