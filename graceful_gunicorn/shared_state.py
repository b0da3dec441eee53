"""State that the processes of one instance share.

It records which workers accept connections, how many connections each worker has, and whether the
instance is shutting down. It lives in anonymous memory that the master shares with every worker it
forks, including the workers that a reload starts.

Each field has a single writer and is written in one operation, so nothing is locked. A reader may
see a value that is slightly out of date, which only makes its decision slightly worse.
"""

import time
from collections.abc import Collection
from ctypes import Structure, c_bool, c_double, c_int64, sizeof
from enum import IntEnum
from mmap import mmap
from typing import Any

# A worker whose last heartbeat is older than this counts as not accepting.
STALE_SECONDS = 1.0
# A worker that dies sooner than this after its boot counts as a worker that failed to start.
STABLE_SECONDS = 2.0
MAX_SLOTS = 1024  # enough for several generations of the largest supported number of workers


class TooManyWorkersError(Exception):
    """No slot is free for another worker."""

    def __init__(self) -> None:
        super().__init__(
            f"{MAX_SLOTS:,} workers are running, which is the maximum. Replaced workers count until"
            " they have exited. Configure fewer workers."
        )


class Shutdown(IntEnum):
    """How the master was told to shut the instance down."""

    NONE = 0
    GRACEFUL = 1
    IMMEDIATE = 2


class WorkerState(Structure):
    """What one worker publishes to the master and to the other workers.

    `connections` is the number at the last heartbeat. `booted_at` is 0 until the worker serves.
    `missing_metrics` is how many metrics of this worker have found no room on the disk, and
    `lost_metrics` is the sum over all workers that ever had this slot.
    """

    number: int
    allocated: bool
    heartbeat_at: float
    wants_to_accept: bool
    connections: int
    booted_at: float
    exited_cleanly: bool
    missing_metrics: int
    lost_metrics: int
    _fields_ = (
        ("number", c_int64),
        ("allocated", c_bool),
        ("heartbeat_at", c_double),
        ("wants_to_accept", c_bool),
        ("connections", c_int64),
        ("booted_at", c_double),
        ("exited_cleanly", c_bool),
        ("missing_metrics", c_int64),
        ("lost_metrics", c_int64),
    )

    def heartbeat(self, connections: int) -> None:
        """Record that this worker is alive, and how many connections it has."""
        self.heartbeat_at, self.connections = time.monotonic(), connections

    @property
    def accepting(self) -> bool:
        """Whether this worker accepts connections and will continue to.

        This is false for a worker that hangs, because its heartbeat is stale.
        """
        return self.wants_to_accept and time.monotonic() - self.heartbeat_at < STALE_SECONDS

    @property
    def exited_early(self) -> bool:
        """Whether this worker, which has exited, failed before it was stable."""
        return not self.exited_cleanly and not self.stable_since(float("-inf"))

    def stable_since(self, moment: float) -> bool:
        """Whether this worker booted after `moment` and has served for STABLE_SECONDS since."""
        is_old_enough = self.booted_at < time.monotonic() - STABLE_SECONDS
        return self.booted_at > moment and is_old_enough and bool(self.booted_at)

    def record_missing_metrics(self, count: int) -> None:
        """Record how many metrics of this worker have found no room on the disk so far."""
        self.lost_metrics += count - self.missing_metrics
        self.missing_metrics = count

    def release(self) -> None:
        """Free this slot after its worker has exited."""
        for name, _ in self._fields_:
            if name not in ("number", "lost_metrics"):
                setattr(self, name, 0)


class _Memory(Structure):
    _fields_ = (
        ("shutdown", c_int64),
        ("started", c_bool),
        ("boot_failures", c_int64),
        ("boot_failed_at", c_double),
        ("used_slots", c_int64),
        ("slots", WorkerState * MAX_SLOTS),
    )


class SharedState:
    """One slot for each worker, allocated by the master, and the state of the whole instance."""

    def __init__(self) -> None:
        self._memory: Any = _Memory.from_buffer(mmap(-1, sizeof(_Memory)))
        self._all_slots: list[WorkerState] = list(self._memory.slots)
        for number, slot in enumerate(self._all_slots):
            slot.number = number

    @property
    def shutdown(self) -> Shutdown:
        """Whether and how the instance is shutting down."""
        return Shutdown(self._memory.shutdown)

    @shutdown.setter
    def shutdown(self, shutdown: Shutdown) -> None:
        self._memory.shutdown = shutdown

    @property
    def started(self) -> bool:
        """Whether any worker of this instance has ever served."""
        return bool(self._memory.started)

    def record_boot(self, worker: WorkerState) -> None:
        """Record that a worker has started to serve. The worker itself calls this."""
        worker.booted_at = time.monotonic()
        self._memory.started = True

    @property
    def failed_boots(self) -> int:
        """How many boots have failed since the last worker that booted and became stable."""
        failed_at = self._memory.boot_failed_at
        is_repaired = any(slot.stable_since(failed_at) for slot in self.slots())
        return 0 if is_repaired else int(self._memory.boot_failures)

    def record_failed_boot(self) -> int:
        """Count another failed boot, and return `failed_boots`. Only the master calls this."""
        self._memory.boot_failures = failures = self.failed_boots + 1
        self._memory.boot_failed_at = time.monotonic()
        return failures

    def forget_failed_boots(self) -> None:
        """Forget failures that were repaired, before the proof exits. Only the master does this."""
        self._memory.boot_failures = 0

    def allocate_worker(self) -> WorkerState:
        """Allocate the first free slot to a new worker. Raises TooManyWorkersError."""
        free = next((slot for slot in self._all_slots if not slot.allocated), None)
        if free is None:
            raise TooManyWorkersError
        free.allocated = True
        self._memory.used_slots = max(self._memory.used_slots, free.number + 1)
        return free

    def release_all_except(self, workers: Collection[WorkerState]) -> None:
        """Free every allocated slot that is not in `workers`."""
        for slot in self.slots():
            if slot.allocated and slot not in workers:
                slot.release()

    def other_accepting_workers(self, own: WorkerState) -> list[WorkerState]:
        """Return the state of every worker that accepts connections, except `own`."""
        return [slot for slot in self.slots() if slot is not own and slot.accepting]

    def slots(self) -> list[WorkerState]:
        """Return the slots that have ever been allocated."""
        return self._all_slots[: self._memory.used_slots]


# The master imports this module before it forks, so all workers share this memory. The module is
# imported only once per master, so a reload keeps the memory.
SHARED_STATE = SharedState()
