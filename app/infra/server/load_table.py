"""What the processes of one instance tell each other.

Which workers accept, how many connections each has, and whether the instance ends. It lies in
anonymous memory that the master shares with every worker it forks, those of a reload included.
Each cell has one writer, and none is locked: whoever reads what was true a moment ago chooses a
little worse.
"""

import mmap
import time
from enum import IntEnum

STALE_SECONDS = 1.0
CELL_BYTES = 8  # written at once: no reader sees half a number
END, ROWS_USED, HEADER = range(3)
TAKEN, HEARTBEAT, ACCEPTING, CONNECTIONS, WIDTH = range(5)
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
    def taken(self) -> bool:
        """Whether it is some worker's."""
        return bool(self._cells[TAKEN])

    def take(self) -> None:
        """Make it a new worker's."""
        self._cells[HEARTBEAT] = self._cells[ACCEPTING] = self._cells[CONNECTIONS] = 0
        self._cells[TAKEN] = 1

    def leave(self) -> None:
        """Forget a worker that is no more."""
        self._cells[ACCEPTING] = self._cells[TAKEN] = 0


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

    def take_row(self) -> Row:
        """Return the first row that is free."""
        number, row = next((at, row) for at, row in enumerate(self._rows) if not row.taken)
        row.take()
        self._cells[ROWS_USED] = max(self._cells[ROWS_USED], number + 1)
        return row

    def others(self, own: Row) -> list[Row]:
        """Return the rows of all other workers that accept."""
        used = self._rows[: int(self._cells[ROWS_USED])]
        return [row for row in used if row is not own and row.accepting]


# Made in the master, which imports this before it forks, and once: a reload keeps it.
TABLE = LoadTable()
