"""Reports code that blocks the event loop, with the stack of that code.

A thread checks whether the event loop still runs its tasks. On a busy machine, the process may get
no CPU time. That delays the loop too, but is no mistake. The watchdog thread is then late as well,
so its own delay is subtracted, unless the process used the CPU meanwhile.
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

CHECK_SECONDS = 0.05
MAX_FRAMES = 12


class LoopWatchdog:
    """Watches the event loop of the thread that creates it."""

    def __init__(self, blocked_seconds: float) -> None:
        self._blocked_seconds = blocked_seconds
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._last_beat = time.monotonic()
        self.stopped = threading.Event()

    async def beat(self) -> None:
        """Record again and again that the loop runs. This is a task of the loop."""
        while True:
            self._last_beat = time.monotonic()
            await asyncio.sleep(CHECK_SECONDS)

    def watch(self) -> None:
        """Check the loop until stopped, and report each block once. This runs in a thread."""
        reported_beat = starved_seconds = 0.0
        checked_at, cpu_seconds = time.monotonic(), time.process_time()
        while not self.stopped.wait(CHECK_SECONDS):
            now, cpu_now = time.monotonic(), time.process_time()
            if not self._loop.is_running():
                self._last_beat = now
            beat = self._last_beat
            delay = now - checked_at - CHECK_SECONDS
            if beat >= checked_at:
                starved_seconds = 0.0
            starved_seconds += max(0.0, delay - (cpu_now - cpu_seconds))
            checked_at, cpu_seconds = now, cpu_now
            blocked_seconds = now - beat - CHECK_SECONDS - starved_seconds
            if blocked_seconds > self._blocked_seconds and beat != reported_beat:
                reported_beat = beat
                self._report(now - beat)

    def _report(self, seconds: float) -> None:
        frame = sys._current_frames().get(self._loop_thread)  # noqa: SLF001 - a documented function
        stack = "".join(traceback.format_stack(frame)[-MAX_FRAMES:]) if frame else "(unknown)"
        LOOP_BLOCKED.inc()
        report("blocked_loop", f"the event loop has been blocked for {seconds:.2f} s by:\n{stack}")


@asynccontextmanager
async def watch_event_loop(blocked_seconds: float) -> AsyncIterator[None]:
    """Watch the running event loop until the block is left."""
    watchdog = LoopWatchdog(blocked_seconds)
    in_thread(watchdog.watch, "watchdog thread", watchdog.stopped)
    async with in_background(watchdog.beat, "watchdog"):
        try:
            yield
        finally:
            watchdog.stopped.set()
