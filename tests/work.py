"""Functions that tests run in other processes. They import little, as such functions should."""

import os
import resource
import signal
import time
from pathlib import Path

from app.infra.limited_process import limited


def nothing() -> None:
    """Do nothing."""


def identity() -> tuple[int, int]:
    """Return the id and the niceness of this process."""
    return os.getpid(), os.nice(0)


def oom_score_adjustment() -> int:
    return int(Path("/proc/self/oom_score_adj").read_text(encoding="ascii"))


def double(number: int) -> int:
    return 2 * number


def double_later(number: int) -> int:
    time.sleep(0.5)
    return 2 * number


def fail(text: str) -> None:
    raise KeyError(text)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def take_memory(size: int) -> int:
    return len(bytearray(size))


def lower_hard_limit(size: int) -> tuple[int, int]:
    """Return the hard limit on memory before it is lowered, and the limit of a call after that."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (size, size))
    limited((60, 2 * size), nothing)
    soft, _ = resource.getrlimit(resource.RLIMIT_DATA)
    return hard, soft
