"""What a process knows of its server's end, for readiness and for answers without an end.

A server waits for its last answer before the lifespan ends, so that a stream which goes on until
then holds it up for as long as it has patience. Our own worker says when it has come to that. Of
another server, such as Uvicorn with its reloader, the signals are noted: each goes on to whoever
had it before.
"""

import asyncio
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class ServerEnd:
    """The end of the server of this process. `is_near`: the whole instance goes, send no more."""

    def __init__(self) -> None:
        self.is_near = False
        self.is_announced = False  # by the server: what a signal means is then for it to say
        self.noted_by: set[asyncio.Event] = set()

    def announce(self) -> None:
        """Tell all who noted it. Called by the server, on the event loop."""
        for ending in self.noted_by:
            ending.set()


the_end = ServerEnd()


@contextmanager
def noting_the_end(ending: asyncio.Event) -> Iterator[None]:
    """Set `ending` when the server of this process is about to end, until the block is left."""
    the_end.noted_by.add(ending)
    signals = [] if the_end.is_announced else [one for one in SIGNALS if _is_ours_to_handle(one)]
    try:
        with _noting(signals, asyncio.get_running_loop(), ending):
            yield
    finally:
        the_end.noted_by.discard(ending)


@contextmanager
def _noting(
    signals: list[signal.Signals], loop: asyncio.AbstractEventLoop, ending: asyncio.Event
) -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in signals}

    def note(number: int, frame: FrameType | None) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(ending.set)
        handler = before[signal.Signals(number)]
        assert callable(handler)
        handler(number, frame)

    for number in signals:
        signal.signal(number, note)
    try:
        yield
    finally:
        for number in signals:
            if signal.getsignal(number) is note:
                signal.signal(number, before[number])


def _is_ours_to_handle(number: signal.Signals) -> bool:
    """Whether somebody handles it, and this is the thread in which that may change."""
    in_main_thread = threading.current_thread() is threading.main_thread()
    return in_main_thread and callable(signal.getsignal(number))
