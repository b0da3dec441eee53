"""Tells the parts of a process that its server shuts down, before the lifespan ends.

A server waits for its running responses before it ends the lifespan. An endless stream must
therefore end earlier, or the server waits until it gives up. The worker of `graceful_gunicorn`
announces its shutdown. With another server, such as Uvicorn with its reloader, this module notices
SIGTERM and SIGINT, and passes them on to the handlers that were there before.
"""

import asyncio
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class ServerShutdown:
    """The shutdown of the server of this process."""

    def __init__(self) -> None:
        # The whole instance shuts down. Load balancers should send requests elsewhere.
        self.is_draining = False
        # The server calls `begin`, so the signals need not be watched.
        self.is_announced_by_server = False
        self.has_begun = False
        self.events: set[asyncio.Event] = set()

    def begin(self) -> None:
        """Set the events of `shutdown_event`. Call this on the event loop."""
        self.has_begun = True
        for event in self.events:
            event.set()


server_shutdown = ServerShutdown()


@contextmanager
def shutdown_event() -> Iterator[asyncio.Event]:
    """Yield an event that is set when the server of this process begins to shut down."""
    event = asyncio.Event()
    if server_shutdown.has_begun:  # the request came on a connection that was open already
        event.set()
    server_shutdown.events.add(event)
    signals = [] if server_shutdown.is_announced_by_server else _signals_with_handler()
    try:
        with _set_on_signal(event, signals):
            yield event
    finally:
        server_shutdown.events.discard(event)


@contextmanager
def _set_on_signal(event: asyncio.Event, signals: list[signal.Signals]) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    handlers = {number: signal.getsignal(number) for number in signals}

    def handle(number: int, frame: FrameType | None) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(event.set)
        handler = handlers[signal.Signals(number)]
        assert callable(handler)
        handler(number, frame)

    for number in signals:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number in signals:
            if signal.getsignal(number) is handle:
                signal.signal(number, handlers[number])


def _signals_with_handler() -> list[signal.Signals]:
    """Return the signals that have a handler, or none outside the main thread.

    Only the main thread can set handlers.
    """
    if threading.current_thread() is not threading.main_thread():
        return []
    return [number for number in SIGNALS if callable(signal.getsignal(number))]
