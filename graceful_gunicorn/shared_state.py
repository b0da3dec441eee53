"""State that the processes of one instance share.

It records which workers accept connections, how many connections each worker has, and whether the
instance is shutting down. It lives in anonymous memory that the master shares with every worker it
forks, including the workers that a reload starts.

Each cell has a single writer, and no cell is locked. A reader may see a value that is slightly out
of date, which only makes its decision slightly worse.
"""

import mmap
import time
from collections.abc import Collection
from enum import IntEnum

# A worker whose last heartbeat is older than this counts as not accepting.
STALE_SECONDS = 1.0
# A worker that dies sooner than this after its boot counts as a worker that failed to start.
STABLE_SECONDS = 2.0
CELL_BYTES = 8  # a cell is written in one operation, so no reader sees half a number
# The cells of the instance, followed by the number of these cells.
SHUTDOWN, SLOTS_USED, STARTED, BOOT_FAILURES, BOOT_FAILED_AT, HEADER_CELLS = range(6)
# The cells of one worker, followed by the number of these cells.
(
    ALLOCATED,
    HEARTBEAT_AT,
    ACCEPTING,
    CONNECTIONS,
    BOOTED_AT,
    EXITED_CLEANLY,
    MISSING_METRICS,
    LOST_METRICS,
    WORKER_CELLS,
) = range(9)
MAX_SLOTS = 1024  # enough for several generations of the largest supported number of workers


class Shutdown(IntEnum):
    """How the master was told to shut the instance down."""

    NONE = 0
    GRACEFUL = 1
    IMMEDIATE = 2


class WorkerState:
    """What one worker publishes to the master and to the other workers."""

    def __init__(self, cells: "memoryview[float]") -> None:
        self._cells = cells

    def record_boot(self) -> None:
        """Record that this worker has started to serve."""
        self._cells[BOOTED_AT] = time.monotonic()

    def heartbeat(self, connections: int) -> None:
        """Record that this worker is alive, and how many connections it has."""
        self._cells[HEARTBEAT_AT] = time.monotonic()
        self._cells[CONNECTIONS] = connections

    @property
    def connections(self) -> int:
        """The number of connections at this worker's last heartbeat."""
        return int(self._cells[CONNECTIONS])

    @property
    def accepting(self) -> bool:
        """Whether this worker accepts connections and will continue to.

        This is false for a worker that hangs, because its heartbeat is stale.
        """
        fresh = time.monotonic() - self._cells[HEARTBEAT_AT] < STALE_SECONDS
        return fresh and bool(self._cells[ACCEPTING])

    @accepting.setter
    def accepting(self, accepting: bool) -> None:
        self._cells[ACCEPTING] = accepting

    @property
    def booted(self) -> bool:
        """Whether this worker has ever served."""
        return bool(self._cells[BOOTED_AT])

    @property
    def exited_early(self) -> bool:
        """Whether this worker, which has exited, failed before it was stable."""
        return not self._cells[EXITED_CLEANLY] and not self.stable_since(float("-inf"))

    def stable_since(self, moment: float) -> bool:
        """Whether this worker booted after `moment` and has served for STABLE_SECONDS since."""
        booted_at = self._cells[BOOTED_AT]
        return moment < booted_at < time.monotonic() - STABLE_SECONDS and self.booted

    def record_missing_metrics(self, count: int) -> None:
        """Record how many metrics of this worker have found no room on the disk so far."""
        self._cells[LOST_METRICS] += count - self._cells[MISSING_METRICS]
        self._cells[MISSING_METRICS] = count

    @property
    def missing_metrics(self) -> int:
        """How many metrics of this worker have found no room on the disk."""
        return int(self._cells[MISSING_METRICS])

    @property
    def lost_metrics(self) -> int:
        """How many metrics found no room, summed over all workers that ever had this slot."""
        return int(self._cells[LOST_METRICS])

    def record_clean_exit(self) -> None:
        """Record that this worker exits as intended, so its exit is not a failed boot."""
        self._cells[EXITED_CLEANLY] = 1

    @property
    def allocated(self) -> bool:
        """Whether this slot belongs to a worker."""
        return bool(self._cells[ALLOCATED])

    def allocate(self) -> None:
        """Reset this slot for a new worker. LOST_METRICS stays: it is a total since the start."""
        for cell in range(LOST_METRICS):
            self._cells[cell] = 0
        self._cells[ALLOCATED] = 1

    def release(self) -> None:
        """Free this slot after its worker has exited."""
        for cell in (ALLOCATED, ACCEPTING, BOOTED_AT, MISSING_METRICS):
            self._cells[cell] = 0


class SharedState:
    """One slot for each worker, allocated by the master, and the state of the whole instance."""

    def __init__(self) -> None:
        memory = mmap.mmap(-1, CELL_BYTES * (HEADER_CELLS + MAX_SLOTS * WORKER_CELLS))
        self._cells = memoryview(memory).cast("d")
        starts = range(HEADER_CELLS, len(self._cells), WORKER_CELLS)
        self._slots = [WorkerState(self._cells[start : start + WORKER_CELLS]) for start in starts]

    @property
    def shutdown(self) -> Shutdown:
        """Whether and how the instance is shutting down."""
        return Shutdown(int(self._cells[SHUTDOWN]))

    @shutdown.setter
    def shutdown(self, shutdown: Shutdown) -> None:
        self._cells[SHUTDOWN] = shutdown

    @property
    def started(self) -> bool:
        """Whether any worker of this instance has ever served."""
        return bool(self._cells[STARTED])

    def record_boot(self, worker: WorkerState) -> None:
        """Record that a worker has started to serve. The worker itself calls this."""
        worker.record_boot()
        self._cells[STARTED] = 1

    @property
    def failed_boots(self) -> int:
        """How many boots have failed since the last worker that booted and became stable."""
        failures, failed_at = int(self._cells[BOOT_FAILURES]), self._cells[BOOT_FAILED_AT]
        return 0 if any(slot.stable_since(failed_at) for slot in self._used_slots()) else failures

    def record_failed_boot(self) -> int:
        """Count another failed boot, and return `failed_boots`. Only the master calls this."""
        self._cells[BOOT_FAILURES] = failures = self.failed_boots + 1
        self._cells[BOOT_FAILED_AT] = time.monotonic()
        return failures

    @property
    def missing_metrics(self) -> int:
        """How many metrics of the current workers have found no room on the disk."""
        return sum(slot.missing_metrics for slot in self._used_slots())

    @property
    def lost_metrics(self) -> int:
        """How many metrics of all workers since the start have found no room on the disk."""
        return sum(slot.lost_metrics for slot in self._used_slots())

    def release_all_except(self, workers: Collection[WorkerState]) -> None:
        """Free every allocated slot that is not in `workers`."""
        for slot in self._used_slots():
            if slot.allocated and slot not in workers:
                slot.release()

    def allocate_worker(self) -> WorkerState:
        """Allocate the first free slot to a new worker."""
        number, slot = next((at, slot) for at, slot in enumerate(self._slots) if not slot.allocated)
        slot.allocate()
        self._cells[SLOTS_USED] = max(self._cells[SLOTS_USED], number + 1)
        return slot

    def other_accepting_workers(self, own: WorkerState) -> list[WorkerState]:
        """Return the state of every worker that accepts connections, except `own`."""
        return [slot for slot in self._used_slots() if slot is not own and slot.accepting]

    def _used_slots(self) -> list[WorkerState]:
        return self._slots[: int(self._cells[SLOTS_USED])]


# The master imports this module before it forks, so all workers share this memory. The module is
# imported only once per master, so a reload keeps the memory.
SHARED_STATE = SharedState()
