"""Measures how late the event loop is, and reports code that blocks it, with its stack.

A timer shows that the event loop runs, and a thread checks that the timer is not overdue. On a busy
machine, the process may get no CPU time. That delays the loop too, but is no mistake. The watchdog
thread is then late as well, so its own delay is subtracted, unless the process used the CPU
meanwhile.
"""

import asyncio
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from app.infra.observability.background import in_thread
from app.infra.observability.diagnostics.report import report
from app.infra.observability.metrics import LOOP_BLOCKED, LOOP_LAG

BEAT_SECONDS = 0.1
# How often the thread checks an overdue timer. Otherwise it sleeps longer: under load, each time
# that it wakes up it takes the interpreter away from the requests.
CHECK_SECONDS = 0.05
MAX_FRAMES = 12


class LoopWatchdog:
    """Watches the event loop of the thread that creates it."""

    def __init__(self, blocked_seconds: float) -> None:
        self._blocked_seconds = blocked_seconds
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._stopped = threading.Event()
        self._largest_lag = 0.0
        self._next_beat = time.monotonic()

    def start(self) -> None:
        """Start the timer and the thread."""
        self._beat()
        in_thread(self._watch, "watchdog thread", self._stopped)

    def stop(self) -> None:
        """Stop both."""
        self._stopped.set()
        self._timer.cancel()

    def measure(self) -> None:
        """Set the gauge to the largest lag of the event loop since the last call."""
        LOOP_LAG.set(self._largest_lag)
        self._largest_lag = 0.0

    def _beat(self) -> None:
        now = time.monotonic()
        self._largest_lag = max(self._largest_lag, now - self._next_beat)
        self._next_beat = now + BEAT_SECONDS
        self._timer = self._loop.call_later(BEAT_SECONDS, self._beat)

    def _watch(self) -> None:
        """Check the loop until stopped, and report each block once. This runs in a thread."""
        reported_beat = starved_seconds = pause = 0.0
        checked_at, cpu_seconds = time.monotonic(), time.process_time()
        while not self._stopped.wait(pause):
            now, cpu_now = time.monotonic(), time.process_time()
            if not self._loop.is_running():
                self._next_beat = now + BEAT_SECONDS
            beat = self._next_beat
            delay = now - checked_at - pause
            if beat >= checked_at + BEAT_SECONDS:
                starved_seconds = 0.0
            starved_seconds += max(0.0, delay - (cpu_now - cpu_seconds))
            checked_at, cpu_seconds = now, cpu_now
            overdue_seconds = now - beat
            if overdue_seconds - starved_seconds > self._blocked_seconds and beat != reported_beat:
                reported_beat = beat
                self._report(overdue_seconds + BEAT_SECONDS)
            pause = max(CHECK_SECONDS, self._blocked_seconds if overdue_seconds < 0 else 0)

    def _report(self, seconds: float) -> None:
        frame = sys._current_frames().get(self._loop_thread)  # noqa: SLF001 - a documented function
        stack = "".join(traceback.format_stack(frame)[-MAX_FRAMES:]) if frame else "(unknown)"
        LOOP_BLOCKED.inc()
        report("blocked_loop", f"the event loop has been blocked for {seconds:.2f} s by:\n{stack}")


@contextmanager
def watch_event_loop(blocked_seconds: float) -> Iterator[LoopWatchdog]:
    """Watch the running event loop until the block is left."""
    watchdog = LoopWatchdog(blocked_seconds)
    watchdog.start()
    try:
        yield watchdog
    finally:
        watchdog.stop()
