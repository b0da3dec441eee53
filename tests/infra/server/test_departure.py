"""The steps of a worker that leaves, without processes and without waiting."""

import time

import pytest
from uvicorn.server import ServerState

from app.infra import ending
from app.infra.ending import ServerEnd
from app.infra.server import departure as departures
from app.infra.server.acceptor import Acceptor
from app.infra.server.departure import SUCCESSOR_SECONDS, Departure
from app.infra.server.load_table import End, LoadTable

DRAIN_SECONDS, LEAVE_SECONDS = 5.0, 25.0


class Clock:
    """What the time is."""

    now = 1_000.0

    def __call__(self) -> float:
        return self.now


class FakeAcceptor(Acceptor):
    """Notes whether it was stopped, and how."""

    def __init__(self) -> None:
        self.stopped: bool | None = None

    def stop(self, *, take_rest: bool) -> None:
        self.stopped = take_rest


class Worker:
    """One of those that share a table. It has one connection, and a task if `busy`."""

    def __init__(self, table: LoadTable) -> None:
        self.row = table.take_row()
        self.row.accepting = True
        self.acceptor, self.state = FakeAcceptor(), ServerState()
        self.departure = Departure(table, self.row, DRAIN_SECONDS, LEAVE_SECONDS)
        self.connections = 1

    def advance(self) -> bool:
        self.row.beat(self.connections)
        return self.departure.advance(self.acceptor, self.state)

    @property
    def accepts(self) -> bool:
        return self.acceptor.stopped is None


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    return clock


@pytest.fixture(autouse=True)
def the_end(monkeypatch: pytest.MonkeyPatch) -> ServerEnd:
    end = ServerEnd()
    monkeypatch.setattr(ending, "the_end", end)
    monkeypatch.setattr(departures, "the_end", end)
    return end


def test_one_that_is_replaced_waits_for_its_successor(clock: Clock, the_end: ServerEnd) -> None:
    table = LoadTable()
    old, colleague = Worker(table), Worker(table)
    for worker in (old, colleague):
        worker.departure.ask(replaced=True)
    for worker in (old, colleague):
        worker.advance()
    assert old.accepts
    assert colleague.accepts
    new = Worker(table)
    for worker in (new, old, colleague):
        worker.advance()
    assert not old.accepts
    assert not colleague.accepts
    assert not the_end.is_near


def test_of_two_that_are_due_one_stays_until_there_is_another(clock: Clock) -> None:
    table = LoadTable()
    first, second = Worker(table), Worker(table)
    for worker in (first, second):
        worker.advance()
        worker.departure.ask(replaced=False)
    for _ in range(3):
        first.advance()
        second.advance()
    assert not first.accepts
    assert second.accepts
    new = Worker(table)
    new.advance()
    second.advance()
    assert not second.accepts


def test_the_only_worker_is_replaced_all_the_same(clock: Clock) -> None:
    only = Worker(LoadTable())
    only.departure.ask(replaced=False)
    only.advance()
    assert only.accepts
    clock.now += SUCCESSOR_SECONDS
    only.advance()
    assert not only.accepts


def test_it_is_over_with_the_last_connection_or_in_time(clock: Clock) -> None:
    table = LoadTable()
    old, new = Worker(table), Worker(table)
    new.advance()
    old.departure.ask(replaced=True)
    assert not old.advance()
    clock.now += LEAVE_SECONDS - 1
    assert not old.advance()
    clock.now += 1
    assert old.advance()
    clock.now -= 1
    old.connections = 0
    assert old.advance()


def test_an_instance_is_unready_before_it_stops_accepting(clock: Clock, the_end: ServerEnd) -> None:
    table = LoadTable()
    worker, other = Worker(table), Worker(table)
    other.advance()
    table.end = End.IN_ORDER
    worker.departure.ask(replaced=True)
    worker.advance()
    assert the_end.is_near
    assert worker.accepts
    clock.now += DRAIN_SECONDS
    worker.advance()
    assert worker.acceptor.stopped is True  # and nobody is left who would take the rest


def test_without_its_master_a_worker_ends(
    clock: Clock, the_end: ServerEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = Worker(LoadTable())
    worker.advance()
    assert not the_end.is_near
    monkeypatch.setattr("os.getppid", lambda: 1)
    worker.advance()
    assert the_end.is_near
