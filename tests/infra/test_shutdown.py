"""Parts of the process learn that the server shuts down."""

import asyncio
import os
import signal

import pytest

from app.infra import shutdown
from app.infra.shutdown import ServerShutdown, shutdown_event
from tests.coherent_cache.worker import eventually

PATIENCE_SECONDS = 60


async def test_signals_are_not_watched_if_the_server_announces_its_shutdown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = ServerShutdown()
    server.is_announced_by_server = True
    monkeypatch.setattr(shutdown, "server_shutdown", server)
    handler = signal.getsignal(signal.SIGTERM)
    with shutdown_event() as event:
        assert signal.getsignal(signal.SIGTERM) is handler
        assert not event.is_set()
        server.begin()
        assert event.is_set()


async def test_signal_sets_the_event_and_reaches_the_earlier_handler() -> None:
    received: list[int] = []
    earlier = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    try:
        with shutdown_event() as event:
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.wait_for(event.wait(), PATIENCE_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)
        await eventually(lambda: len(received) == 2)
    finally:
        signal.signal(signal.SIGTERM, earlier)


async def test_a_stream_that_begins_after_the_shutdown_ends_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its request came on a connection that was open already."""
    server = ServerShutdown()
    server.is_announced_by_server = True
    monkeypatch.setattr(shutdown, "server_shutdown", server)
    server.begin()
    with shutdown_event() as event:
        assert event.is_set()
