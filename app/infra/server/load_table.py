"""What the processes of one instance tell each other.

Which workers accept, how many connections each has, and whether the instance ends. It lies in
anonymous memory that the master shares with every worker it forks, those of a reload included.
Each cell has one writer, and none is locked: whoever reads what was true a moment ago chooses a
little worse.
"""

import mmap
import time
from collections.abc import Collection
from enum import IntEnum

STALE_SECONDS = 1.0
# A worker that dies sooner after its boot has failed to start.
SETTLED_SECONDS = 2.0
CELL_BYTES = 8  # written at once: no reader sees half a number
END, ROWS_USED, STARTED, FAILURES, FAILED_AT, HEADER = range(6)
TAKEN, HEARTBEAT, ACCEPTING, CONNECTIONS, BOOTED_AT, ENDED, MISSING, LOST, WIDTH = range(9)
MOST_ROWS = 1024  # for several generations of the most workers that there may be


class End(IntEnum):
    """What the master was told."""

    NOT_YET = 0
    IN_ORDER = 1
    AT_ONCE = 2


class Row:
    """What one worker tells the others."""

    def __init__(self, cells: "memoryview[float]") -> None:
        self._cells = cells

    def boot(self) -> None:
        """Say that this worker serves."""
        self._cells[BOOTED_AT] = time.monotonic()

    def beat(self, connections: int) -> None:
        """Say that this worker lives, and what it has."""
        self._cells[HEARTBEAT] = time.monotonic()
        self._cells[CONNECTIONS] = connections

    @property
    def connections(self) -> int:
        """How many this worker had when it last said so."""
        return int(self._cells[CONNECTIONS])

    @property
    def accepting(self) -> bool:
        """Whether it takes new connections, and means to go on. One that stands still does not."""
        fresh = time.monotonic() - self._cells[HEARTBEAT] < STALE_SECONDS
        return fresh and bool(self._cells[ACCEPTING])

    @accepting.setter
    def accepting(self, accepting: bool) -> None:
        self._cells[ACCEPTING] = accepting

    @property
    def booted(self) -> bool:
        """Whether this worker has ever served."""
        return bool(self._cells[BOOTED_AT])

    @property
    def ended_early(self) -> bool:
        """Whether this worker, which is dead, failed before it had settled."""
        return not self._cells[ENDED] and not self.settled_since(float("-inf"))

    def settled_since(self, moment: float) -> bool:
        """Whether this worker has booted after that moment, and served for a while."""
        booted_at = self._cells[BOOTED_AT]
        return moment < booted_at < time.monotonic() - SETTLED_SECONDS and self.booted

    def note_missing(self, metrics: int) -> None:
        """Say how many metrics of this worker have found no room so far."""
        self._cells[LOST] += metrics - self._cells[MISSING]
        self._cells[MISSING] = metrics

    @property
    def missing(self) -> int:
        """How many metrics of this worker have found no room."""
        return int(self._cells[MISSING])

    @property
    def lost(self) -> int:
        """The same of every worker that ever had this row."""
        return int(self._cells[LOST])

    def end(self) -> None:
        """Say that this worker ends as it should."""
        self._cells[ENDED] = 1

    @property
    def taken(self) -> bool:
        """Whether it is some worker's."""
        return bool(self._cells[TAKEN])

    def take(self) -> None:
        """Make it a new worker's."""
        for cell in range(LOST):  # that one is a total since the start
            self._cells[cell] = 0
        self._cells[TAKEN] = 1

    def leave(self) -> None:
        """Forget a worker that is no more."""
        for cell in (TAKEN, ACCEPTING, BOOTED_AT, MISSING):
            self._cells[cell] = 0


class LoadTable:
    """A row a worker, handed out by the master, and what the master says to all."""

    def __init__(self) -> None:
        shared = mmap.mmap(-1, CELL_BYTES * (HEADER + MOST_ROWS * WIDTH))
        self._cells = memoryview(shared).cast("d")
        starts = range(HEADER, len(self._cells), WIDTH)
        self._rows = [Row(self._cells[start : start + WIDTH]) for start in starts]

    @property
    def end(self) -> End:
        """Whether the instance ends, and in which manner."""
        return End(int(self._cells[END]))

    @end.setter
    def end(self, end: End) -> None:
        self._cells[END] = end

    @property
    def started(self) -> bool:
        """Whether any worker of this instance has ever served."""
        return bool(self._cells[STARTED])

    def note_boot(self, row: Row) -> None:
        """Note that a worker serves. It does this itself."""
        row.boot()
        self._cells[STARTED] = 1

    @property
    def failed_boots(self) -> int:
        """How many boots have failed since the last worker that booted and settled."""
        failures, failed_at = int(self._cells[FAILURES]), self._cells[FAILED_AT]
        return 0 if any(row.settled_since(failed_at) for row in self._used()) else failures

    def note_failed_boot(self) -> int:
        """Count one more, in the master. Return `failed_boots`."""
        self._cells[FAILURES] = failures = self.failed_boots + 1
        self._cells[FAILED_AT] = time.monotonic()
        return failures

    @property
    def missing_metrics(self) -> int:
        """How many metrics of the living workers found no room in their files."""
        return sum(row.missing for row in self._used())

    @property
    def lost_metrics(self) -> int:
        """How many found none in any worker since the start."""
        return sum(row.lost for row in self._used())

    def keep_rows(self, rows: Collection[Row]) -> None:
        """Free every row but these."""
        for row in self._used():
            if row.taken and row not in rows:
                row.leave()

    def take_row(self) -> Row:
        """Return the first row that is free."""
        number, row = next((at, row) for at, row in enumerate(self._rows) if not row.taken)
        row.take()
        self._cells[ROWS_USED] = max(self._cells[ROWS_USED], number + 1)
        return row

    def others(self, own: Row) -> list[Row]:
        """Return the rows of all other workers that accept."""
        return [row for row in self._used() if row is not own and row.accepting]

    def _used(self) -> list[Row]:
        return self._rows[: int(self._cells[ROWS_USED])]


# Made in the master, which imports this before it forks, and once: a reload keeps it.
TABLE = LoadTable()
