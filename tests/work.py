"""Functions that tests run in other processes. They import little, as such functions should."""

import os
import signal
import time


def nothing() -> None:
    """Do nothing."""


def identity() -> tuple[int, int]:
    """Return the id and the niceness of this process."""
    return os.getpid(), os.nice(0)


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
