"""Runs functions that need much CPU time, or native code that may crash, in other processes.

`anyio.to_process` keeps processes and kills the one whose call is cancelled. This adds a limit on
the calls that wait, and limits on time, CPU time and memory.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TypeVar, TypeVarTuple, cast

from anyio import BrokenWorkerProcess, CapacityLimiter
from anyio.lowlevel import RunVar
from anyio.to_process import run_sync

from app.errors import Unavailable
from app.infra.limited_process import imported, limited
from app.infra.observability.background import detached
from app.infra.observability.metrics import PROCESS_POOL_CALLS, REFUSED

logger = logging.getLogger(__name__)

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

# With uvloop, anyio raises the second one for a process that has died before it is killed.
DIED = (BrokenWorkerProcess, ProcessLookupError)
WARM_AFTER_SECONDS = 3.0
# A process that needs longer to start is killed. anyio itself kills a process after 20 s, and a
# cancellation has no effect before that.
START_SECONDS = 30.0
TOO_MANY = "Too many requests of this kind are being processed. Try again in a moment."
TOO_SLOW = "This work took too long, and was stopped."
KILLED = "The process for this work was killed, and so was the second one."
NOT_STARTED = "The process for this work could not be started. Try again in a moment."

_locks: RunVar[asyncio.Lock | None] = RunVar("process_pool.lock")


class ProcessPool:
    """Runs at most `size` calls at the same time, and lets `queue` more wait for `queue_seconds`.

    A call that takes longer than `seconds` is killed. The start of a process does not count: it may
    take `START_SECONDS`. All of these raise `Unavailable`. So does a call whose process dies twice
    or cannot be started. Functions must be at the top of a module, and their module should import
    little, because each process imports it.
    """

    def __init__(
        self, size: int, *, queue: int, queue_seconds: float, seconds: float, memory_bytes: int
    ) -> None:
        self._limiter = CapacityLimiter(1)
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
            try:
                return await self._call(function, *arguments)
            except DIED:  # perhaps it was killed while it was idle
                return await self._call(function, *arguments)
        except TimeoutError:
            raise self._refused(TOO_SLOW) from None
        except DIED:
            raise self._refused(KILLED) from None
        finally:
            self._slots.release()

    async def _call(self, function: Callable[[*Ts], T], *arguments: *Ts) -> T:
        limits = int(self._seconds) + 1, self._memory_bytes
        async with asyncio.timeout(None) as limit:
            idle = cast("CapacityLimiter", self._idle_process(function, limit))
            return await run_sync(
                limited, limits, function, *arguments, cancellable=True, limiter=idle
            )

    @asynccontextmanager
    async def _idle_process(
        self, function: Callable[..., object], limit: asyncio.Timeout
    ) -> AsyncIterator[None]:
        """Start a process unless one is idle, and begin the time limit of the call after that.

        anyio does not end a process whose call is cancelled while it starts. So a task starts it
        that is never cancelled. anyio enters this in place of its limiter, and then takes an idle
        process before anything else can run. The lock is released after that, because the event
        loop calls the callback of a task that is done in its next turn.
        """
        lock = _lock_of_loop()
        await lock.acquire()
        starting = detached(self._start_process(function))
        try:
            await asyncio.shield(starting)
        except (OSError, RuntimeError) as error:
            if isinstance(error, DIED):
                raise
            logger.warning("No process could be started: %s", error)
            raise self._refused(NOT_STARTED) from error
        finally:
            starting.add_done_callback(partial(_release, lock))
        limit.reschedule(asyncio.get_running_loop().time() + self._seconds)
        yield

    async def _start_process(self, function: Callable[..., object]) -> None:
        try:
            async with asyncio.timeout(START_SECONDS):
                await run_sync(imported, function, cancellable=True, limiter=self._limiter)
        except TimeoutError:
            raise TimeoutError(f"it took more than {START_SECONDS:g} s") from None

    def _count(self, change: int) -> None:
        self._taken += change
        PROCESS_POOL_CALLS.inc(change)  # of all pools of this process

    def _refused(self, detail: str) -> Unavailable:
        REFUSED.labels("process_pool").inc()
        return Unavailable(detail)


def _lock_of_loop() -> asyncio.Lock:
    """Return the lock of all pools of this event loop, because anyio keeps their processes."""
    lock = _locks.get(None)
    if lock is None:
        _locks.set(lock := asyncio.Lock())
    return lock


def _release(lock: asyncio.Lock, starting: asyncio.Task[None]) -> None:
    """Release the lock, also for a process whose caller has gone away."""
    lock.release()
    if not starting.cancelled():
        starting.exception()  # otherwise asyncio logs that nobody has looked at it
