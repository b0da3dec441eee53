"""Failed boots are retried with growing pauses, in a fake master with a fake clock."""

import logging
import os
from dataclasses import dataclass

import pytest
from gunicorn.arbiter import Arbiter
from gunicorn.errors import HaltServer

from graceful_gunicorn import arbiter, shared_state
from graceful_gunicorn.arbiter import GracefulArbiter
from graceful_gunicorn.shared_state import SharedState, Shutdown, WorkerState


@dataclass(eq=False)
class Worker:
    worker_state: WorkerState


class Master(GracefulArbiter):
    """An arbiter that starts no processes. Its workers boot when a test calls `boot_all`."""

    log = logging.getLogger("master")
    cannot_fork = False

    def __init__(self, state: SharedState) -> None:
        self.shared_state, self.pid = state, os.getpid()
        self._num_workers, self.starts = 2, 0
        self.WORKERS: dict[int, Worker] = {}


def spawn_fake_worker(master: Master) -> None:
    """Replaces Gunicorn's method."""
    worker_state = master.shared_state.allocate_worker()
    if master.cannot_fork:
        raise BlockingIOError(11, "Resource temporarily unavailable")
    master.starts += 1
    master.WORKERS[master.starts] = Worker(worker_state)


class Clock:
    """Replaces the module `time`."""

    now = 1_000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        pass


@dataclass
class Instance:
    """An instance whose master runs its main loop once per second."""

    shared_state: SharedState
    master: Master
    clock: Clock

    def pass_seconds(self, seconds: int) -> None:
        for _ in range(seconds):
            self.clock.now += 1
            if len(self.master.WORKERS) < self.master.num_workers:
                self.master.spawn_workers()

    def boot_all(self) -> None:
        for worker in self.master.WORKERS.values():
            if not worker.worker_state.booted_at:
                self.shared_state.record_boot(worker.worker_state)

    def kill(self, number: int) -> None:
        worker_state = self.master.WORKERS.pop(number).worker_state
        self.master.note_exit(worker_state)

    def fail_all_boots(self, seconds: int) -> int:
        """Let each boot fail at once, and return how many workers were started."""
        before = self.master.starts
        for _ in range(seconds):
            self.pass_seconds(1)
            for number, worker in list(self.master.WORKERS.items()):
                if not worker.worker_state.booted_at:
                    self.kill(number)
        return self.master.starts - before


@pytest.fixture
def instance(monkeypatch: pytest.MonkeyPatch) -> Instance:
    """An instance whose two workers, 1 and 2, have served for a minute."""
    clock, state = Clock(), SharedState()
    monkeypatch.setattr(shared_state, "time", clock)
    monkeypatch.setattr(arbiter, "time", clock)
    monkeypatch.setattr(arbiter, "SHARED_STATE", state)
    monkeypatch.setattr(Arbiter, "spawn_worker", spawn_fake_worker)
    master = Master(state)
    instance = Instance(state, master, clock)
    instance.pass_seconds(1)
    instance.boot_all()
    instance.pass_seconds(60)
    return instance


def test_a_stable_worker_that_dies_is_replaced_at_once(instance: Instance) -> None:
    instance.kill(1)
    assert instance.shared_state.failed_boots == 0
    instance.pass_seconds(1)
    assert set(instance.master.WORKERS) == {2, 3}


def test_failed_boots_are_retried_with_growing_pauses(instance: Instance) -> None:
    instance.kill(1)
    assert instance.fail_all_boots(30) == 6  # after 0, 0, 1, 2, 4 and 8 seconds
    assert instance.fail_all_boots(150) == 10
    assert instance.shared_state.failed_boots == 16
    assert set(instance.master.WORKERS) == {2}


def test_workers_start_one_by_one_after_the_boot_is_repaired(instance: Instance) -> None:
    instance.kill(1)
    instance.kill(2)
    instance.fail_all_boots(30)
    instance.pass_seconds(20)
    assert len(instance.master.WORKERS) == 1
    instance.boot_all()
    instance.pass_seconds(1)
    assert len(instance.master.WORKERS) == 2
    instance.pass_seconds(3)
    assert instance.shared_state.failed_boots == 0


def test_a_worker_that_crashes_just_after_its_boot_is_restarted_with_growing_pauses(
    instance: Instance,
) -> None:
    instance.kill(1)
    before = instance.master.starts
    for _ in range(60):
        instance.pass_seconds(1)
        instance.boot_all()
        for number in [*instance.master.WORKERS]:
            if number > 2:
                instance.kill(number)
    assert instance.master.starts - before <= 8


def test_a_clean_exit_is_not_a_failed_boot(instance: Instance) -> None:
    instance.kill(1)
    instance.pass_seconds(1)
    instance.boot_all()
    instance.master.WORKERS[3].worker_state.exited_cleanly = True
    instance.kill(3)
    assert instance.shared_state.failed_boots == 0


def test_a_fork_that_the_system_refuses_is_retried(
    instance: Instance, caplog: pytest.LogCaptureFixture
) -> None:
    instance.kill(1)
    instance.master.cannot_fork = True
    instance.pass_seconds(2_000)
    assert "A worker cannot be started. [Errno 11] Resource temporarily unavailable" in caplog.text
    assert 0 < instance.shared_state.failed_boots < 200
    instance.master.cannot_fork = False
    instance.pass_seconds(20)
    assert len(instance.master.WORKERS) == 2


def test_failures_before_the_instance_has_started_are_not_delayed(
    instance: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SharedState, "started", False)
    instance.kill(1)
    assert instance.fail_all_boots(3) == 3
    instance.master.cannot_fork = True
    with pytest.raises(HaltServer, match="A worker cannot be started"):
        instance.pass_seconds(1)


def test_one_worker_too_many_is_started_when_another_one_has_exited(
    instance: Instance, caplog: pytest.LogCaptureFixture
) -> None:
    instance.master._num_workers = shared_state.MAX_SLOTS
    instance.pass_seconds(1)
    instance.boot_all()
    instance.pass_seconds(60)
    instance.master._num_workers += 1
    instance.pass_seconds(60)
    assert len(instance.master.WORKERS) == shared_state.MAX_SLOTS
    assert "A worker cannot be started. 1,024 workers are running" in caplog.text
    instance.kill(1)
    instance.pass_seconds(20)
    assert len(instance.master.WORKERS) == shared_state.MAX_SLOTS
    assert max(instance.master.WORKERS) > shared_state.MAX_SLOTS


def test_a_first_start_with_too_many_workers_ends_the_instance_with_the_reason(
    instance: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(shared_state.MAX_SLOTS - 2):
        instance.shared_state.allocate_worker()
    monkeypatch.setattr(SharedState, "started", False)
    instance.master._num_workers = 3
    with pytest.raises(HaltServer, match="1,024 workers are running"):
        instance.pass_seconds(1)


def test_failures_that_were_repaired_are_forgotten_when_that_worker_exits(
    instance: Instance,
) -> None:
    instance.kill(1)
    instance.fail_all_boots(30)
    instance.pass_seconds(20)
    instance.boot_all()
    instance.pass_seconds(3)
    assert instance.shared_state.failed_boots == 0
    instance.kill(max(instance.master.WORKERS))
    assert instance.shared_state.failed_boots == 0
    assert instance.fail_all_boots(2) == 2  # at once, and at once again


def test_no_worker_is_started_while_the_instance_shuts_down(instance: Instance) -> None:
    instance.shared_state.shutdown = Shutdown.GRACEFUL
    for number in list(instance.master.WORKERS):
        instance.kill(number)
    instance.pass_seconds(5)
    assert not instance.master.WORKERS
