"""Checks consistency over HTTP: clients write and read while something fails."""

import asyncio
import gc
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import cycle
from typing import Any

from tests.faults.ledger import Finding, Ledger
from tests.faults.postgres import Backend
from tests.faults.readers import MEMORY, Reader, Seen
from tests.faults.service import Service
from tests.faults.writers import Writer

WRITERS, READERS, OLD_POSTS = 4, 24, 8
AGE = timedelta(days=1)
AGED = "UPDATE posts SET created_at = created_at - interval '1 day'"
# Reads per second of all readers, and seconds between the writes of each writer.
RATE, LONGEST_PAUSE = 1_900.0, 0.25
# The promises about reads from memory, and about writes whose invalidation was cut off.
MEMORY_SHARE, MEMORY_SECONDS = 0.0005, 0.05
LATE_SECONDS = 2.0

Fault = Callable[[], Coroutine[Any, Any, None]]


@dataclass(frozen=True)
class History:
    """The reads and writes of one run."""

    seen: Seen
    writers: list[Writer]

    def stale(self, *, in_memory: bool) -> list[Finding]:
        """Return the stale reads of one tier, without those of writes that were cut off."""
        return [
            finding
            for source, findings in self.seen.findings.items()
            for finding in findings
            if (source == MEMORY) == in_memory and not finding.is_late
        ]

    @property
    def late(self) -> float:
        """The longest time in seconds for which a write that was cut off was not visible."""
        everything = (one for found in self.seen.findings.values() for one in found)
        return max((finding.age for finding in everything if finding.is_late), default=0.0)

    @property
    def acknowledged(self) -> int:
        return sum(writer.acknowledged for writer in self.writers)

    @property
    def unknown(self) -> int:
        """How many writes were cut off, so that their outcome is not known."""
        return sum(writer.unknown for writer in self.writers)

    @property
    def figure(self) -> str:
        reads, memory = self.seen.reads, self.stale(in_memory=True)
        past = self.seen.total - reads[MEMORY]
        oldest = _oldest(memory) * 1000
        parts = [
            f"{self.acknowledged} acknowledged writes",
            f"{len(self.stale(in_memory=False))} of {past} reads through Valkey stale",
            f"{len(memory)} of {reads[MEMORY]} reads from memory stale, by {oldest:.1f} ms at most",
        ]
        if self.unknown:
            parts.append(f"{self.unknown} writes cut off, visible within {self.late:.2f} s")
        return "; ".join(parts)

    def broken(
        self, memory_seconds: float = MEMORY_SECONDS, memory_share: float = MEMORY_SHARE
    ) -> list[str]:
        """Return the promises that were not kept."""
        past, memory = self.stale(in_memory=False), self.stale(in_memory=True)
        share = len(memory) / max(1, self.seen.reads[MEMORY])
        unread = self.seen.statuses.total() - self.seen.total
        found = [
            (unread > self.seen.total, f"{unread} reads failed"),
            (bool(past), f"{len(past)} reads stale, by at most {_oldest(past):.2f} s"),
            (share > memory_share, f"{share:.2%} of the reads from memory stale"),
            (
                _oldest(memory) > memory_seconds,
                f"a read from memory was stale by {_oldest(memory) * 1000:.1f} ms",
            ),
            (self.late > LATE_SECONDS, f"a write was not visible for {self.late:.2f} s"),
        ]
        return [what for is_so, what in found if is_so]


def _oldest(findings: list[Finding]) -> float:
    return max((finding.age for finding in findings), default=0.0)


async def run_history(
    service: Service,
    backend: Backend,
    seconds: float,
    fault: AbstractAsyncContextManager[None],
    *others: Service,
) -> History:
    """Run all writers and readers, spread over all instances, while `fault` is in force."""
    ledger, seen, instances = Ledger(), Seen(), cycle((service, *others))
    writers = [Writer(next(instances), backend, ledger) for _ in range(WRITERS)]
    for writer, neighbour in zip(writers, [*writers[1:], writers[0]], strict=True):
        writer.neighbour = neighbour
    for writer in writers:
        await writer.join(OLD_POSTS)
    await backend.rows(AGED)  # no post has been read yet
    ledger.places = [((at - AGE, row), label, of) for (at, row), label, of in ledger.places]
    work = [writer.work(LONGEST_PAUSE) for writer in writers]
    rate = RATE / READERS
    work += [Reader(next(instances).address, ledger, seen, rate).work() for _ in range(READERS)]
    gc.collect()
    async with fault:
        tasks = [asyncio.create_task(one) for one in work]
        await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
        await end(tasks)
    return History(seen, writers)


@asynccontextmanager
async def repeated(fault: Fault, pause: float) -> AsyncIterator[None]:
    """Cause the fault again and again."""

    async def repeat() -> None:
        while True:
            await asyncio.sleep(pause)
            await fault()

    task = asyncio.create_task(repeat())
    try:
        yield
    finally:
        await end([task])


async def end(tasks: list[asyncio.Task[None]]) -> None:
    """Cancel the tasks until all have ended, because a client may swallow it. Raise errors."""
    while any(not task.done() for task in tasks):
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=1)
    for task in tasks:
        if not task.cancelled():
            task.result()
