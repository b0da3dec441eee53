"""Replaces workers: one that cannot boot is tried again later, and never ends the instance.

Gunicorn ends the whole instance when a single worker fails to boot, and starts a worker that
crashes again at once. Here only the first start may fail. Later failures are retried after pauses
that grow, one worker at a time, so that a broken boot costs little. The other workers go on.
"""

import os
import random
import time

from gunicorn.arbiter import Arbiter
from gunicorn.workers.base import Worker

from app.infra.server.load_table import TABLE, End, Row

# The exit code of a worker that cannot boot. It means nothing to Gunicorn, which then goes on.
BOOT_FAILED = 70
# The first retry is immediate. Each further one waits twice as long as the one before.
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 15.0
# Between two starts, so that several workers do not load the application at the same moment.
SPREAD_SECONDS = 0.1


class Boots:
    """Takes over how the master starts workers."""

    def __init__(self, server: Arbiter) -> None:
        self._server = server
        self._next_at = 0.0
        self._spawn_worker = server.spawn_worker
        server.spawn_worker, server.spawn_workers = self.spawn_worker, self.spawn_workers

    def spawn_workers(self) -> None:
        """Start the workers that are missing."""
        while len(self._server.WORKERS) < self._server.num_workers and self._may_start():
            self.spawn_worker()
            time.sleep(SPREAD_SECONDS * random.random())  # noqa: S311

    def spawn_worker(self) -> None:
        """Start one worker. What the system refuses, such as a process, is tried again later."""
        try:
            self._spawn_worker()
        except OSError:
            if os.getpid() != self._server.pid or not TABLE.started:
                raise
            self._server.log.exception("The system refused to start a worker")
            TABLE.keep_rows([worker.row for worker in self._workers()])
            self._note_failure()

    def note_exit(self, row: Row) -> None:
        """Note that a worker has ended, before its row is given back."""
        if TABLE.started and TABLE.end is End.NOT_YET and row.ended_early:
            self._note_failure()

    def _may_start(self) -> bool:
        if not TABLE.failed_boots:
            return True
        is_due = time.monotonic() >= self._next_at
        return is_due and all(worker.row.booted for worker in self._workers())

    def _note_failure(self) -> None:
        failures = TABLE.note_failed_boot()
        pause = 0.0
        if failures > 1:
            pause = min(FIRST_PAUSE_SECONDS * 2 ** min(failures - 2, 10), LONGEST_PAUSE_SECONDS)
        self._next_at = time.monotonic() + pause
        self._server.log.error(
            "A worker could not boot or crashed at once, %s times in a row. "
            "%s workers are left. The next start is in %.0f s.",
            failures,
            len(self._server.WORKERS),
            pause,
        )

    def _workers(self) -> list[Worker]:
        return list(self._server.WORKERS.values())
