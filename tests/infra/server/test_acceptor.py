"""How many of the waiting connections a worker takes in one turn of its event loop."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from app.infra.server.acceptor import MOST_AT_ONCE, Acceptor
from app.infra.server.load_table import LoadTable, Row

MANY = 3 * MOST_AT_ONCE


@pytest.fixture
def burst() -> Iterator[socket.socket]:
    """A listener at which MANY connections wait."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=MANY))
        listener.setblocking(False)
        for _ in range(MANY):
            stack.enter_context(socket.create_connection(listener.getsockname()))
        yield listener


def row_of(table: LoadTable, connections: int) -> Row:
    row = table.take_row()
    row.beat(connections)
    row.accepting = True
    return row


async def taken_in_one_turn(burst: socket.socket, table: LoadTable, row: Row) -> int:
    """Let a worker that has `row` accept for one turn, and close what it took."""
    taken = 0

    def take(connection: socket.socket) -> None:
        nonlocal taken
        taken += 1
        row.beat(row.connections + 1)
        connection.close()

    acceptor = Acceptor([burst], table, row, take)
    acceptor.start()
    while not taken:  # a turn may have ended before the loop looked at the socket
        await asyncio.sleep(0)
    acceptor.stop(take_rest=False)
    return taken


async def test_a_burst_does_not_wait_in_the_queue_of_the_kernel(burst: socket.socket) -> None:
    table = LoadTable()
    assert await taken_in_one_turn(burst, table, row_of(table, 0)) == MOST_AT_ONCE


async def test_a_worker_takes_no_more_than_its_part_of_a_burst(burst: socket.socket) -> None:
    table = LoadTable()
    row_of(table, 3)
    assert await taken_in_one_turn(burst, table, row_of(table, 3)) == 2


async def test_with_many_connections_it_may_be_ahead_by_a_few(burst: socket.socket) -> None:
    table = LoadTable()
    row_of(table, 100)
    assert await taken_in_one_turn(burst, table, row_of(table, 100)) == 8
