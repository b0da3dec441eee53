"""Rate-limits identical warnings."""

import logging
import time

INTERVAL_SECONDS = 5.0


class RepeatFilter(logging.Filter):
    """Passes each kind of warning of a logger once in five seconds. Errors always pass.

    The kind is the text before its arguments are filled in. The next line of the kind says how many
    lines were left out.
    """

    def __init__(self) -> None:
        super().__init__()
        self._passed_at: dict[str, float] = {}
        self._left_out: dict[str, int] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno > logging.WARNING:
            return True
        kind, now = str(record.msg), time.monotonic()
        if now - self._passed_at.get(kind, float("-inf")) < INTERVAL_SECONDS:
            self._left_out[kind] = self._left_out.get(kind, 0) + 1
            return False
        self._passed_at[kind] = now
        if left_out := self._left_out.pop(kind, 0):
            record.msg = f"{kind} ({left_out} lines like this one were left out before it)"
        return True
