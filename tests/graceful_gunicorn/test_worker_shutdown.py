"""The steps of a worker's shutdown, without real processes and with a fake clock."""

import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from uvicorn.server import ServerState

from graceful_gunicorn.acceptor import Acceptor
from graceful_gunicorn.config import ServerConfig
from graceful_gunicorn.connection_draining import DrainingProtocol
from graceful_gunicorn.shared_state import SharedState, Shutdown
from graceful_gunicorn.worker_shutdown import (
    MAX_IDLE_TICKS,
    MAX_UNREAD_TICKS,
    REPLACEMENT_WAIT_SECONDS,
    WorkerShutdown,
)

DRAIN_SECONDS, DEADLINE_SECONDS = 5.0, 25.0
CONFIG = ServerConfig(
    check_command=(),
    drain_seconds=DRAIN_SECONDS,
    graceful_timeout_seconds=DEADLINE_SECONDS + 5,
    closing_seconds=5,
)


class Clock:
    """Replaces `time.monotonic`."""

    now = 1_000.0

    def __call__(self) -> float:
        return self.now


class FakeAcceptor(Acceptor):
    """Records the `accept_queued` argument of `stop`, or None if `stop` was not called."""

    def __init__(self) -> None:
        self.accept_queued: bool | None = None

    def stop(self, *, accept_queued: bool) -> None:
        self.accept_queued = accept_queued


class Worker:
    """A worker with one connection."""

    def __init__(self, shared_state: SharedState) -> None:
        self.state = shared_state.allocate_worker()
        self.state.wants_to_accept = True
        self.acceptor, self.server_state = FakeAcceptor(), ServerState()
        self.is_unready = False
        config = replace(CONFIG, on_drain=self.become_unready)
        self.shutdown = WorkerShutdown(shared_state, self.state, config)
        self.connections = 1

    def become_unready(self) -> None:
        self.is_unready = True

    def advance(self) -> bool:
        self.state.heartbeat(self.connections)
        return self.shutdown.advance(self.acceptor, self.server_state)

    @property
    def accepts(self) -> bool:
        return self.acceptor.accept_queued is None


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    return clock


def test_workers_that_a_reload_replaces_wait_for_a_new_worker(clock: Clock) -> None:
    shared_state = SharedState()
    old, also_old = Worker(shared_state), Worker(shared_state)
    for worker in (old, also_old):
        worker.shutdown.request(being_replaced=True)
    for worker in (old, also_old):
        worker.advance()
    assert old.accepts
    assert also_old.accepts
    new = Worker(shared_state)
    for worker in (new, old, also_old):
        worker.advance()
    assert not old.accepts
    assert not also_old.accepts
    assert not old.is_unready


def test_if_two_workers_shut_down_one_stays_until_a_third_worker_accepts(clock: Clock) -> None:
    shared_state = SharedState()
    first, second = Worker(shared_state), Worker(shared_state)
    for worker in (first, second):
        worker.advance()
        worker.shutdown.request(being_replaced=False)
    for _ in range(3):
        first.advance()
        second.advance()
    assert not first.accepts
    assert second.accepts
    new = Worker(shared_state)
    new.advance()
    second.advance()
    assert not second.accepts


def test_the_only_worker_stops_accepting_after_a_while(clock: Clock) -> None:
    only = Worker(SharedState())
    only.shutdown.request(being_replaced=False)
    only.advance()
    assert only.accepts
    clock.now += REPLACEMENT_WAIT_SECONDS
    only.advance()
    assert not only.accepts


def test_a_worker_exits_after_its_last_connection_or_at_its_deadline(clock: Clock) -> None:
    shared_state = SharedState()
    old, new = Worker(shared_state), Worker(shared_state)
    new.advance()
    old.shutdown.request(being_replaced=True)
    assert not old.advance()
    clock.now += DEADLINE_SECONDS - 1
    assert not old.advance()
    clock.now += 1
    assert old.advance()
    clock.now -= 1
    old.connections = 0
    assert old.advance()


def test_an_instance_becomes_unready_before_it_stops_accepting(clock: Clock) -> None:
    shared_state = SharedState()
    worker, other = Worker(shared_state), Worker(shared_state)
    other.advance()
    shared_state.shutdown = Shutdown.GRACEFUL
    worker.shutdown.request(being_replaced=True)
    worker.advance()
    assert worker.is_unready
    assert worker.accepts
    clock.now += DRAIN_SECONDS
    worker.advance()
    # No other worker is left that would accept the connections in the kernel's queue.
    assert worker.acceptor.accept_queued is True


def test_a_worker_shuts_down_when_its_master_is_gone(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = Worker(SharedState())
    worker.advance()
    assert not worker.is_unready
    monkeypatch.setattr("os.getppid", lambda: 1)
    worker.advance()
    assert worker.is_unready


class Transport:
    """The socket of a client that does not read, so that a close has to wait."""

    is_aborted = False

    def __init__(self, *, is_closing: bool, unread_bytes: int = 1_000_000) -> None:
        self.is_closing = lambda: is_closing
        self.unread_bytes = unread_bytes

    def abort(self) -> None:
        self.is_aborted = True

    def close(self) -> None:
        self.is_closing = lambda: True

    def get_write_buffer_size(self) -> int:
        return self.unread_bytes


def unread(
    *, is_closing: bool, is_complete: bool = False, **options: Any
) -> tuple[DrainingProtocol, Transport]:
    """Return a connection whose response has begun, and whose client does not read it."""
    connection: Any = DrainingProtocol.__new__(DrainingProtocol)
    connection.cycle = SimpleNamespace(response_complete=is_complete, response_started=True)
    connection.transport = Transport(is_closing=is_closing, **options)
    return connection, connection.transport


@pytest.mark.parametrize("whole_instance", [True, False])
def test_a_response_that_was_given_up_does_not_delay_the_shutdown(
    clock: Clock, *, whole_instance: bool
) -> None:
    """A response that the application still sends has its time until the deadline."""
    shared_state = SharedState()
    worker, other = Worker(shared_state), Worker(shared_state)
    other.advance()
    (given_up, socket), (sending, other_socket) = (
        unread(is_closing=is_closing) for is_closing in (True, False)
    )
    worker.server_state.connections.update({given_up, sending})
    if whole_instance:
        shared_state.shutdown = Shutdown.GRACEFUL
    worker.shutdown.request(being_replaced=True)
    worker.advance()
    clock.now += DRAIN_SECONDS
    for _ in range(MAX_IDLE_TICKS - 1):
        assert not worker.advance()
    assert not socket.is_aborted
    for _ in range(3):
        worker.advance()
    assert socket.is_aborted
    assert not other_socket.is_aborted


@pytest.mark.parametrize("whole_instance", [True, False])
@pytest.mark.parametrize("is_closing", [True, False])
def test_a_client_that_does_not_read_the_end_of_a_response_does_not_delay_the_shutdown(
    clock: Clock, *, is_closing: bool, whole_instance: bool
) -> None:
    """A client that reads slowly may go on until the deadline."""
    shared_state = SharedState()
    worker, other = Worker(shared_state), Worker(shared_state)
    other.advance()
    (stuck, socket), (slow, slow_socket), (read, read_socket) = (
        unread(is_closing=is_closing, is_complete=True, unread_bytes=size)
        for size in (1_000_000, 1_000_000, 0)
    )
    worker.server_state.connections.update({stuck, slow, read})
    if whole_instance:
        shared_state.shutdown = Shutdown.GRACEFUL
    worker.shutdown.request(being_replaced=True)
    worker.advance()
    clock.now += DRAIN_SECONDS
    for tick in range(3 * MAX_UNREAD_TICKS):
        worker.advance()
        slow_socket.unread_bytes -= 1_000 * (tick % MAX_UNREAD_TICKS == 0)
        assert not (socket.is_aborted and tick < MAX_UNREAD_TICKS - 2)
    assert socket.is_aborted
    assert not slow_socket.is_aborted
    assert not read_socket.is_aborted


def test_workers_whose_replacements_cannot_boot_go_on_accepting(clock: Clock) -> None:
    shared_state = SharedState()
    old, also_old = Worker(shared_state), Worker(shared_state)
    for worker in (old, also_old):
        worker.shutdown.request(being_replaced=True)
        worker.advance()
    shared_state.record_failed_boot()
    clock.now += 2 * REPLACEMENT_WAIT_SECONDS
    for worker in (old, also_old):
        worker.advance()
    assert old.accepts
    assert also_old.accepts
    new = Worker(shared_state)  # of the next reload
    for worker in (new, old, also_old):
        worker.advance()
    assert not old.accepts
    assert not also_old.accepts


def test_a_client_that_has_just_read_something_is_not_disconnected(clock: Clock) -> None:
    shared_state = SharedState()
    worker, other = Worker(shared_state), Worker(shared_state)
    other.advance()
    slow, socket = unread(is_closing=True, is_complete=True)
    worker.server_state.connections.add(slow)
    worker.shutdown.request(being_replaced=True)
    for _ in range(MAX_UNREAD_TICKS):
        worker.advance()
    socket.unread_bytes -= 1_000
    worker.advance()
    assert not socket.is_aborted


@pytest.mark.parametrize("whole_instance", [True, False])
def test_an_idle_connection_is_drained_and_closed_only_after_the_instance_stops_accepting(
    clock: Clock, *, whole_instance: bool
) -> None:
    """A client may be about to use it, and its next response tells it to go elsewhere."""
    shared_state = SharedState()
    worker, other = Worker(shared_state), Worker(shared_state)
    other.advance()
    idle, socket = unread(is_closing=False, is_complete=True, unread_bytes=0)
    worker.server_state.connections.add(idle)
    worker.advance()
    assert not idle.is_draining
    if whole_instance:
        shared_state.shutdown = Shutdown.GRACEFUL
    worker.shutdown.request(being_replaced=True)
    for _ in range(2 * MAX_IDLE_TICKS):
        worker.advance()
    assert idle.is_draining
    assert not socket.is_closing()
    clock.now += DRAIN_SECONDS
    for _ in range(MAX_IDLE_TICKS):
        worker.advance()
    assert not socket.is_closing()
    worker.advance()
    assert socket.is_closing() is whole_instance


def test_streams_are_told_once_and_running_requests_are_finished(clock: Clock) -> None:
    shared_state = SharedState()
    worker, other = Worker(shared_state), Worker(shared_state)
    told: list[bool] = []
    config = replace(CONFIG, on_stop_accepting=lambda: told.append(worker.accepts))
    worker.shutdown = WorkerShutdown(shared_state, worker.state, config)
    worker.connections = 0
    request: Any = object()  # its client has left
    worker.server_state.tasks.add(request)
    other.advance()
    shared_state.shutdown = Shutdown.GRACEFUL
    for _ in range(2):
        assert not worker.advance()
    assert told == []
    clock.now += DRAIN_SECONDS
    for _ in range(2):
        assert not worker.advance()
    assert told == [False]
    worker.server_state.tasks.clear()
    assert worker.advance()
