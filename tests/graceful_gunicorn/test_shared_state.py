"""Every process sees the shared state, and stale state is ignored."""

import os
import time

import pytest

from graceful_gunicorn import shared_state
from graceful_gunicorn.shared_state import SharedState, Shutdown, TooManyWorkersError, WorkerState

# Python 3.12 and later warn about a fork in a process with threads. These children do next to
# nothing, so the warning does not apply.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def add_accepting_worker(state: SharedState, connections: int = 0) -> WorkerState:
    worker = state.allocate_worker()
    worker.wants_to_accept = True
    worker.heartbeat(connections)
    return worker


def test_the_master_sees_what_a_child_process_writes() -> None:
    state = SharedState()
    own, other = add_accepting_worker(state), state.allocate_worker()
    if (child := os.fork()) == 0:
        other.wants_to_accept = True
        other.heartbeat(7)
        os._exit(0)
    os.waitpid(child, 0)
    assert [worker.connections for worker in state.other_accepting_workers(own)] == [7]


def test_a_child_process_sees_that_the_instance_shuts_down() -> None:
    state = SharedState()
    read_end, write_end = os.pipe()
    if (child := os.fork()) == 0:
        os.read(read_end, 1)
        os._exit(state.shutdown)
    state.shutdown = Shutdown.GRACEFUL
    os.write(write_end, b"x")
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == Shutdown.GRACEFUL


def test_only_living_workers_that_accept_are_listed() -> None:
    state = SharedState()
    own, leaving, booting, dead, staying = (add_accepting_worker(state) for _ in range(5))
    leaving.wants_to_accept = False
    booting.release()
    assert state.allocate_worker() is booting
    dead.release()
    assert state.other_accepting_workers(own) == [staying]


def test_a_worker_that_hangs_is_not_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    state = SharedState()
    own, other = add_accepting_worker(state), add_accepting_worker(state)
    assert state.other_accepting_workers(own) == [other]
    later = time.monotonic() + 2 * shared_state.STALE_SECONDS
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert state.other_accepting_workers(own) == []


def test_a_released_slot_is_used_again() -> None:
    state = SharedState()
    workers = [state.allocate_worker() for _ in range(3)]
    workers[1].release()
    assert state.allocate_worker() is workers[1]


def test_a_slot_that_is_used_again_keeps_only_what_is_counted_since_the_start() -> None:
    state = SharedState()
    worker = add_accepting_worker(state, connections=3)
    state.record_boot(worker)
    worker.record_missing_metrics(5)
    worker.exited_cleanly = True
    worker.release()
    again = state.allocate_worker()
    assert again is worker
    assert not again.accepting
    assert again.exited_early
    assert (again.connections, again.booted_at, again.missing_metrics) == (0, 0, 0)
    assert again.lost_metrics == 5


def test_too_many_workers_are_an_error_that_says_what_to_do() -> None:
    state = SharedState()
    workers = [state.allocate_worker() for _ in range(shared_state.MAX_SLOTS)]
    with pytest.raises(TooManyWorkersError, match=r"1,024 workers are running.*Configure fewer"):
        state.allocate_worker()
    workers[7].release()
    assert state.allocate_worker() is workers[7]
