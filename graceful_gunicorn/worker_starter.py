"""Starts workers, and retries with a backoff when a worker cannot boot.

Gunicorn ends the whole instance when a single worker fails to boot, and it restarts a crashing
worker at once, again and again. Here only the first start of the instance may fail. Later failures
are retried one worker at a time, after pauses that grow, so that a broken boot costs little. The
other workers keep serving.
"""

import os
import random
import time

from gunicorn.arbiter import Arbiter
from gunicorn.errors import HaltServer
from gunicorn.workers.base import Worker

from graceful_gunicorn.shared_state import (
    SHARED_STATE,
    Shutdown,
    TooManyWorkersError,
    WorkerState,
)

# The exit code of a worker that cannot boot. Gunicorn gives this code no meaning, so it continues.
BOOT_FAILED_EXIT_CODE = 70
# The first retry is immediate and the second one follows after a second. Each further retry waits
# twice as long as the one before, up to the maximum.
FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 1.0, 15.0
# The maximum of a random pause between two starts. Without the pause, several workers would load
# the application at the same moment.
SPREAD_SECONDS = 0.1


class WorkerStarter:
    """Replaces the two methods of the arbiter that start workers."""

    def __init__(self, arbiter: Arbiter) -> None:
        self._arbiter = arbiter
        self._next_start_at = 0.0
        self._spawn_worker = arbiter.spawn_worker
        arbiter.spawn_worker, arbiter.spawn_workers = self.spawn_worker, self.spawn_workers

    def spawn_workers(self) -> None:
        """Start the workers that are missing, as far as the backoff allows it now."""
        while len(self._arbiter.WORKERS) < self._arbiter.num_workers and self._may_start():
            self.spawn_worker()
            time.sleep(SPREAD_SECONDS * random.random())  # noqa: S311

    def spawn_worker(self) -> None:
        """Start one worker.

        If the operating system refuses, for example because the limit of processes is reached, or
        if there are too many workers, the start is retried later. Before the instance has started,
        this ends the instance.
        """
        try:
            self._spawn_worker()
        except (OSError, TooManyWorkersError) as error:
            if os.getpid() != self._arbiter.pid:
                raise
            reason = f"A worker cannot be started. {error}"
            if not SHARED_STATE.started:
                raise HaltServer(reason, Arbiter.WORKER_BOOT_ERROR) from error
            self._arbiter.log.exception(reason)
            SHARED_STATE.release_all_except([worker.worker_state for worker in self._workers()])
            self._note_failure()

    def note_exit(self, worker: WorkerState) -> None:
        """Count an early exit as a failed boot. Call this before the worker's slot is released."""
        is_running = SHARED_STATE.started and SHARED_STATE.shutdown is Shutdown.NONE
        if is_running and worker.exited_early:
            self._note_failure()

    def _may_start(self) -> bool:
        if not SHARED_STATE.failed_boots:
            return True
        is_due = time.monotonic() >= self._next_start_at
        return is_due and all(worker.worker_state.booted_at for worker in self._workers())

    def _note_failure(self) -> None:
        failures = SHARED_STATE.record_failed_boot()
        pause = 0.0
        if failures > 1:
            pause = min(FIRST_PAUSE_SECONDS * 2 ** min(failures - 2, 10), MAX_PAUSE_SECONDS)
        self._next_start_at = time.monotonic() + pause
        self._arbiter.log.error(
            "A worker could not boot or crashed at once, %s times in a row. "
            "%s workers are left. The next start is in %.0f s.",
            failures,
            len(self._arbiter.WORKERS),
            pause,
        )

    def _workers(self) -> list[Worker]:
        return list(self._arbiter.WORKERS.values())
