"""Learns at once that the server was told to end, for answers that do not end by themselves.

A server waits for its last answer before the lifespan ends, so that a stream which goes on until
then holds it up for as long as it has patience. Signals are what Uvicorn, its reloader and Gunicorn
have in common: each goes on to whoever had it before.
"""

import asyncio
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def noting_the_end(ending: asyncio.Event) -> Iterator[None]:
    """Set `ending` when one of the signals comes, until the block is left.

    What nobody handles stays so, and so does all of it in any thread but the main one.
    """
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def note(number: int, frame: FrameType | None) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(ending.set)
        handler = before[signal.Signals(number)]
        assert callable(handler)
        handler(number, frame)

    noted = [number for number in SIGNALS if _is_ours_to_handle(before[number])]
    for number in noted:
        signal.signal(number, note)
    try:
        yield
    finally:
        for number in noted:
            if signal.getsignal(number) is note:
                signal.signal(number, before[number])


def _is_ours_to_handle(handler: object) -> bool:
    return callable(handler) and threading.current_thread() is threading.main_thread()
