"""What `guard_master` changes in Gunicorn's arbiter, its master process.

- A reload (SIGHUP) is refused while the service would not start with its current settings.
  Gunicorn's own reload would end the master.
- A worker that cannot boot does not end an instance that has started. Gunicorn would end the
  instance, or restart a crashing worker at once, again and again. Here, failed boots are retried
  one worker at a time, after pauses that grow, while the other workers keep serving.
- The workers are told when the whole instance shuts down. A worker receives SIGTERM in this case as
  well as when it alone is replaced, and then it must neither fail its readiness checks nor reject a
  request.
"""

import os
import random
import signal
import sys
import time
from types import FrameType
from typing import TYPE_CHECKING

from gunicorn.arbiter import Arbiter
from gunicorn.errors import HaltServer

from graceful_gunicorn.config import ServerConfig
from graceful_gunicorn.multiprocess_metrics import remove_live_gauges
from graceful_gunicorn.reload_check import reason_not_to_reload
from graceful_gunicorn.shared_state import (
    SHARED_STATE,
    Shutdown,
    TooManyWorkersError,
    WorkerState,
)

if TYPE_CHECKING:  # it imports prometheus_client, which must not happen before `begin_metrics`
    from graceful_gunicorn.worker import Worker

# The exit code of a worker that cannot boot. Gunicorn gives this code no meaning, so it continues.
BOOT_FAILED_EXIT_CODE = 70
# The first retry is immediate and the second one follows after a second. Each further retry waits
# twice as long as the one before, up to the maximum.
FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 1.0, 15.0
# The maximum of a random pause between two starts. Without the pause, several workers would load
# the application at the same moment.
SPREAD_SECONDS = 0.1
SHUTDOWN_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)


class GracefulArbiter(Arbiter):  # type: ignore[misc]
    """Replaces the class of a running arbiter, because Gunicorn has no setting for the class."""

    server_config: ServerConfig
    next_start_at = 0.0
    is_halting = False

    def signal(self, number: int, frame: FrameType | None) -> None:
        """Tell the workers about a shutdown before the signal is handled.

        The first SIGTERM shuts the instance down gracefully. A second SIGTERM, SIGINT or SIGQUIT
        shuts it down immediately.
        """
        if number in SHUTDOWN_SIGNALS:
            if os.getpid() != self.pid:
                # A worker that has only just been forked still has this handler of the master. It
                # exits here, because otherwise the signal would be lost.
                sys.exit(0)
            if number != signal.SIGTERM or SHARED_STATE.shutdown is not Shutdown.NONE:
                SHARED_STATE.shutdown, number = Shutdown.IMMEDIATE, signal.SIGQUIT
            else:
                SHARED_STATE.shutdown = Shutdown.GRACEFUL
        super().signal(number, frame)

    def reload(self) -> None:
        """Reload, unless the service would not start or the instance is shutting down."""
        reason = reason_not_to_reload(self.server_config.check_command, self.cfg.address)
        if reason is not None:
            self.log.error(
                "Not reloaded. Correct this now, because every worker that is replaced reads the "
                "same settings. %s",
                reason,
            )
        elif SHARED_STATE.shutdown is Shutdown.NONE:
            super().reload()

    def reap_workers(self) -> None:
        """Shut down cleanly when several workers cannot boot at the first start.

        Gunicorn raises HaltServer for each of these workers. A second HaltServer would interrupt
        the shutdown that the first one has begun, and end the master with a traceback.
        """
        while True:
            try:
                super().reap_workers()
            except HaltServer:
                if not self.is_halting and SHARED_STATE.shutdown is Shutdown.NONE:
                    self.is_halting = True
                    raise
            else:
                return

    def spawn_workers(self) -> None:
        """Start the workers that are missing, as far as the pauses allow it now."""
        while len(self.WORKERS) < self.num_workers and self._may_start():
            self.spawn_worker()
            time.sleep(SPREAD_SECONDS * random.random())  # noqa: S311

    def spawn_worker(self) -> None:
        """Start one worker.

        If the operating system refuses, for example because the limit of processes is reached, or
        if there are too many workers, the start is retried later. Before the instance has started,
        this ends the instance.
        """
        try:
            super().spawn_worker()
        except (OSError, TooManyWorkersError) as error:
            if os.getpid() != self.pid:
                raise
            reason = f"A worker cannot be started. {error}"
            if not SHARED_STATE.started:
                raise HaltServer(reason, self.WORKER_BOOT_ERROR) from error
            self.log.exception(reason)
            SHARED_STATE.release_all_except([worker.worker_state for worker in self._workers()])
            self._note_failure()

    def note_exit(self, worker: WorkerState) -> None:
        """Count an early exit as a failed boot, and release the slot of the worker."""
        if not SHARED_STATE.failed_boots:
            SHARED_STATE.forget_failed_boots()  # the slot of this worker may be the only proof
        is_running = SHARED_STATE.started and SHARED_STATE.shutdown is Shutdown.NONE
        if is_running and worker.exited_early:
            self._note_failure()
        worker.release()

    def _may_start(self) -> bool:
        if SHARED_STATE.shutdown is not Shutdown.NONE:
            return False
        if not SHARED_STATE.failed_boots:
            return True
        is_due = time.monotonic() >= self.next_start_at
        return is_due and all(worker.worker_state.booted_at for worker in self._workers())

    def _note_failure(self) -> None:
        failures, pause = SHARED_STATE.record_failed_boot(), 0.0
        if failures > 1:
            pause = min(FIRST_PAUSE_SECONDS * 2 ** min(failures - 2, 10), MAX_PAUSE_SECONDS)
        self.next_start_at = time.monotonic() + pause
        self.log.error(
            "A worker could not boot or crashed at once, %s times in a row. "
            "%s workers are left. The next start is in %.0f s.",
            failures,
            len(self.WORKERS),
            pause,
        )

    def _workers(self) -> "list[Worker]":
        return list(self.WORKERS.values())


def guard_master(server: Arbiter, config: ServerConfig) -> None:
    """Use this package's arbiter. Call this in `when_ready`."""
    server.__class__, server.server_config = GracefulArbiter, config
    for number in SHUTDOWN_SIGNALS:
        signal.signal(number, server.signal)


def prepare_worker(worker: "Worker", config: ServerConfig) -> None:
    """Give a worker its configuration and its slot in the shared state. Call this in `pre_fork`."""
    worker.worker_state, worker.server_config = SHARED_STATE.allocate_worker(), config


def forget_worker(server: Arbiter, worker: "Worker") -> None:
    """Release what belongs to a worker that has exited. Call this in `child_exit`."""
    remove_live_gauges(worker.worker_state.number)
    server.note_exit(worker.worker_state)
