"""Notices that something holds the event loop up, and says where it stands while it does.

A thread looks at whether the loop still turns. A machine that gives the process no time makes the
loop late as well, and that is nobody's mistake: how much the thread itself came late without the
process having used the time is taken off.
"""

import asyncio
import sys
import threading
import time
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from app.infra.observability.background import in_background, in_thread
from app.infra.observability.diagnostics.report import report
from app.infra.observability.metrics import LOOP_BLOCKED

LOOK_SECONDS = 0.05
DEEPEST = 12  # frames that are shown


class Watchdog:
    """Watches the loop of the thread that makes it."""

    def __init__(self, blocked_seconds: float) -> None:
        self._blocked_seconds = blocked_seconds
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._turned = time.monotonic()
        self.ended = threading.Event()

    async def turn(self) -> None:
        """Show that the loop turns, until cancelled."""
        while True:
            self._turned = time.monotonic()
            await asyncio.sleep(LOOK_SECONDS)

    def look(self) -> None:
        """Look until ended. Each time that the loop is held up is told once."""
        told = 0.0
        starved = 0.0
        looked, used = time.monotonic(), time.process_time()
        while not self.ended.wait(LOOK_SECONDS):
            now, used_now = time.monotonic(), time.process_time()
            if not self._loop.is_running():
                self._turned = now
            late = now - looked - LOOK_SECONDS
            turned = self._turned
            starved = max(0.0, late - (used_now - used)) + (starved if turned < looked else 0.0)
            looked, used = now, used_now
            if now - turned - LOOK_SECONDS - starved > self._blocked_seconds and told != turned:
                told = turned
                self._tell(now - turned)

    def _tell(self, seconds: float) -> None:
        frame = sys._current_frames().get(self._loop_thread)  # noqa: SLF001 - documented
        stack = "".join(traceback.format_stack(frame)[-DEEPEST:]) if frame else "(gone)"
        LOOP_BLOCKED.inc()
        report("blocked_loop", f"the event loop stands still since {seconds:.2f} s, here:\n{stack}")


@asynccontextmanager
async def watching(blocked_seconds: float) -> AsyncIterator[None]:
    """Watch this loop until the block is left."""
    watchdog = Watchdog(blocked_seconds)
    in_thread(watchdog.look, "watchdog thread", watchdog.ended)
    async with in_background(watchdog.turn, "watchdog"):
        try:
            yield
        finally:
            watchdog.ended.set()
