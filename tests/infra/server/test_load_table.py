"""What workers tell each other reaches every process, and what is old counts for nothing."""

import os
import time

import pytest

from app.infra.server import load_table
from app.infra.server.load_table import End, LoadTable, Row

# Python 3.12 and later warn of a fork in a process with threads; these children do next to nothing.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def accepting(table: LoadTable, connections: int = 0) -> Row:
    row = table.take_row()
    row.accepting = True
    row.beat(connections)
    return row


def test_a_child_process_is_heard() -> None:
    table = LoadTable()
    own, row = accepting(table), table.take_row()
    if (child := os.fork()) == 0:
        row.accepting = True
        row.beat(7)
        os._exit(0)
    os.waitpid(child, 0)
    assert [other.connections for other in table.others(own)] == [7]


def test_the_end_is_heard_by_a_child_process() -> None:
    table = LoadTable()
    read_end, write_end = os.pipe()
    if (child := os.fork()) == 0:
        os.read(read_end, 1)
        os._exit(table.end)
    table.end = End.IN_ORDER
    os.write(write_end, b"x")
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == End.IN_ORDER


def test_only_those_who_live_and_accept_count() -> None:
    table = LoadTable()
    own, leaving, booting, dead, staying = (accepting(table) for _ in range(5))
    leaving.accepting = False
    booting.take()
    dead.leave()
    assert table.others(own) == [staying]


def test_one_that_stands_still_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    table = LoadTable()
    own, other = accepting(table), accepting(table)
    assert table.others(own) == [other]
    later = time.monotonic() + 2 * load_table.STALE_SECONDS
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert table.others(own) == []


def test_a_row_is_used_again() -> None:
    table = LoadTable()
    rows = [table.take_row() for _ in range(3)]
    rows[1].leave()
    assert table.take_row() is rows[1]
