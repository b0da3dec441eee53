"""Writes log lines in a thread, so that no request waits for the reader of the log.

If nobody reads the log, or if it cannot be written, lines are dropped and counted.
"""

import os
import threading
from collections import deque
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from select import PIPE_BUF
from weakref import WeakSet

from app.infra.observability.background import in_thread
from app.infra.observability.metrics import LOG_DROPPED

WRITE_INTERVAL_SECONDS = 0.1
CLOSE_SECONDS = 1.0
MAX_WAITING, MAX_BATCH = 10_000, 1_000

_writers: WeakSet["LogWriter"] = WeakSet()


class LogWriter:
    """Writes lines to a file descriptor, in the order in which they were passed to `write`."""

    def __init__(self, descriptor: int) -> None:
        self.dropped = 0
        self._descriptor = descriptor
        self.reset()
        _writers.add(self)

    def reset(self) -> None:
        """Start with no lines and no thread."""
        self._waiting: deque[bytes] = deque()
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()
        # Wakes the thread. Unlike an Event, it may be used in a signal handler, which may log too.
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._starting = threading.RLock()
        self._writing = threading.Lock()  # keeps the order if a thread has outlived `close`

    def write(self, line: bytes) -> None:
        """Queue a line. It is dropped if too many lines wait. This never blocks and never fails."""
        if len(self._waiting) >= MAX_WAITING:
            self._drop(1)
            return
        self._waiting.append(line)
        if self._thread is None:
            self._start()
        if not self._wake.qsize():
            self._wake.put(None)

    def close(self) -> None:
        """Write the lines that wait, for one second at most. A later `write` opens it again."""
        with self._starting:
            thread, self._thread = self._thread, None
            closing, self._closing = self._closing, threading.Event()
            wake, self._wake = self._wake, SimpleQueue()
        closing.set()
        wake.put(None)
        if thread is not None:
            thread.join(CLOSE_SECONDS)

    def _start(self) -> None:
        # Started by the first line, because a forked process has no threads. If the system has no
        # room for another thread, the lines wait and the next line tries again.
        with self._starting, suppress(RuntimeError):
            if self._thread is None:
                run = partial(self._run, self._wake, self._closing)
                self._thread = in_thread(run, "log writer", self._closing)

    def _run(self, wake: SimpleQueue[None], closing: threading.Event) -> None:
        while not closing.is_set():
            wake.get()
            closing.wait(WRITE_INTERVAL_SECONDS)  # collects lines, and ends early when closed
            self._write_waiting()

    def _write_waiting(self) -> None:
        with self._writing:
            while self._waiting:
                size = min(len(self._waiting), MAX_BATCH)
                self._write(b"".join(self._waiting.popleft() for _ in range(size)))

    def _write(self, lines: bytes) -> None:
        """Write whole lines, in pieces of at most PIPE_BUF bytes.

        A pipe keeps such a piece together, so that lines of several workers do not mix. A longer
        line is a piece of its own.
        """
        start = 0
        while start < len(lines):
            end = lines.rfind(b"\n", start, start + PIPE_BUF) + 1
            end = end or lines.find(b"\n", start) + 1 or len(lines)
            try:
                start += os.write(self._descriptor, lines[start:end])
            except OSError:
                self._drop(lines.count(b"\n", start, end))
                start = end

    def _drop(self, lines: int) -> None:
        self.dropped += lines
        LOG_DROPPED.inc(lines)


def _reset_after_fork() -> None:
    """Forget the thread, which a forked process lacks, and the lines, which the parent writes."""
    for writer in _writers:
        writer.reset()


os.register_at_fork(after_in_child=_reset_after_fork)
