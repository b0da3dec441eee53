"""How many waiting connections a worker accepts in one turn of its event loop."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from graceful_gunicorn.acceptor import ACCEPTS_AFTER_PAUSE, MAX_ACCEPTS_PER_TURN, Acceptor
from graceful_gunicorn.shared_state import SharedState, WorkerState

BURST = 3 * MAX_ACCEPTS_PER_TURN


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A listener with BURST connections in its queue."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=BURST))
        listener.setblocking(False)
        for _ in range(BURST):
            stack.enter_context(socket.create_connection(listener.getsockname()))
        yield listener


def add_worker(state: SharedState, connections: int) -> WorkerState:
    worker = state.allocate_worker()
    worker.heartbeat(connections)
    worker.wants_to_accept = True
    return worker


async def accepted_per_turn(
    turns: int, listener: socket.socket, state: SharedState, worker: WorkerState
) -> list[int]:
    """Let a worker accept, close what it accepted, and return the number for each turn.

    Turns in which it accepted nothing are not counted.
    """
    accepted, numbers = 0, list[int]()

    def close(connection: socket.socket) -> None:
        nonlocal accepted
        accepted += 1
        worker.heartbeat(worker.connections + 1)
        connection.close()

    acceptor = Acceptor([listener], state, worker, close)
    acceptor.start()
    while len(numbers) < turns:
        await asyncio.sleep(0)
        if accepted > sum(numbers):
            numbers.append(accepted - sum(numbers))
    acceptor.stop(accept_queued=False)
    return numbers


async def test_a_single_worker_accepts_several_connections_per_turn(
    listener: socket.socket,
) -> None:
    state = SharedState()
    own = add_worker(state, 0)
    assert await accepted_per_turn(1, listener, state, own) == [MAX_ACCEPTS_PER_TURN]


async def test_a_worker_accepts_no_more_than_its_share_of_a_burst(listener: socket.socket) -> None:
    state = SharedState()
    add_worker(state, 3)
    assert await accepted_per_turn(1, listener, state, add_worker(state, 3)) == [2]


async def test_a_worker_with_many_connections_may_be_a_few_ahead(listener: socket.socket) -> None:
    state = SharedState()
    add_worker(state, 100)
    assert await accepted_per_turn(1, listener, state, add_worker(state, 100)) == [8]


async def test_a_worker_accepts_several_connections_that_the_others_have_left(
    listener: socket.socket,
) -> None:
    state = SharedState()
    add_worker(state, 3)
    accepted = await accepted_per_turn(3, listener, state, add_worker(state, 3))
    assert accepted == [2, ACCEPTS_AFTER_PAUSE, ACCEPTS_AFTER_PAUSE]


@pytest.mark.parametrize("accept_queued", [True, False])
async def test_a_worker_that_stops_accepts_what_waits_only_if_it_is_told_to(
    listener: socket.socket, *, accept_queued: bool
) -> None:
    own = SharedState().allocate_worker()
    accepted: list[socket.socket] = []
    acceptor = Acceptor([listener], SharedState(), own, accepted.append)
    acceptor.start()
    assert own.wants_to_accept
    acceptor.stop(accept_queued=accept_queued)
    for connection in accepted:
        connection.close()
    assert not own.wants_to_accept
    assert len(accepted) == (BURST if accept_queued else 0)
    assert listener.fileno() == -1
