"""A model of the table `cache_outbox`, which uses the clock of the harness."""

from collections.abc import Callable, Sequence
from itertools import count

from coherent_cache import outbox
from coherent_cache.outbox import Poll
from tests.coherent_cache.harness import Clock
from tests.coherent_cache.model_database import Change


class Outbox(outbox.Outbox):
    """Rows with the times of their insertion. Expired changes are passed to `on_expired`."""

    def __init__(self, clock: Clock, on_expired: Callable[[Change], None]) -> None:
        self._clock, self._on_expired, self._ids = clock, on_expired, count(1)
        self.rows: dict[int, tuple[Change, float]] = {}

    def insert(self, change: Change) -> None:
        """Insert a row, which is committed with the change."""
        self.rows[next(self._ids)] = change, self._clock.now

    def delete_change(self, change: Change) -> None:
        self.rows = {row_id: row for row_id, row in self.rows.items() if row[0] != change}

    async def poll(self) -> Poll:
        now = self._clock.now
        rows = self.rows.items()
        return Poll(now, [outbox.Change(row_id, row.tags, now - at) for row_id, (row, at) in rows])

    async def delete(self, ids: Sequence[int]) -> None:
        for row_id in ids:
            self.rows.pop(row_id, None)

    async def delete_expired(self, age_seconds: float) -> int:
        rows = self.rows.items()
        expired = [row_id for row_id, (_, at) in rows if at < self._clock.now - age_seconds]
        for row_id in expired:
            self._on_expired(self.rows.pop(row_id)[0])
        return len(expired)
