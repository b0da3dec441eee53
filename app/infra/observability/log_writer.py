"""Writes log lines off the path of requests: a thread takes what has gathered.

Whoever logs never waits and never fails. When nobody reads, lines are dropped and counted; when the
lines cannot be written at all, likewise.
"""

import os
import threading
from collections import deque
from contextlib import suppress
from select import PIPE_BUF

from app.infra.observability.background import in_thread
from app.infra.observability.metrics import LOG_DROPPED

GATHER_SECONDS = 0.1
CLOSE_SECONDS = 1.0
MOST_WAITING, AT_ONCE = 10_000, 1_000


class LogWriter:
    """Writes what is handed to `write`, in order, from a thread of its own."""

    def __init__(self, descriptor: int) -> None:
        self.dropped = 0
        self._descriptor = descriptor
        self._waiting: deque[bytes] = deque()
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()

    def write(self, line: bytes) -> None:
        """Hand over a line, at the cost of an append. It is dropped when too many wait."""
        if len(self._waiting) >= MOST_WAITING:
            self._drop(1)
            return
        self._waiting.append(line)
        if self._thread is None:
            self._start()

    def close(self) -> None:
        """Write what waits, for a second at most."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join(CLOSE_SECONDS)
            self._thread = None
        self._closing = threading.Event()

    def _start(self) -> None:
        # The thread is started when it is needed, because a fork takes no threads along. While no
        # thread can be started the lines wait, and the next line tries again.
        with suppress(RuntimeError):
            self._thread = in_thread(self._run, "log writer", self._closing)

    def _run(self) -> None:
        closing = self._closing
        while not closing.wait(GATHER_SECONDS):
            self._write_gathered()
        self._write_gathered()

    def _write_gathered(self) -> None:
        while self._waiting:
            most = min(len(self._waiting), AT_ONCE)
            lines = [self._waiting.popleft() for _ in range(most)]
            self._write(b"".join(lines))

    def _write(self, lines: bytes) -> None:
        """Write whole lines, in pieces that a pipe keeps together: no other worker gets between.

        A line that is longer than that is a piece of its own, and may be torn.
        """
        begin = 0
        while begin < len(lines):
            end = lines.rfind(b"\n", begin, begin + PIPE_BUF) + 1
            end = end or lines.find(b"\n", begin) + 1 or len(lines)
            try:
                begin += os.write(self._descriptor, lines[begin:end])
            except OSError:  # nobody is left to be told, but for the count
                self._drop(lines.count(b"\n", begin, end))
                begin = end

    def _drop(self, lines: int) -> None:
        self.dropped += lines
        LOG_DROPPED.inc(lines)
