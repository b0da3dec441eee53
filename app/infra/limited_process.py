"""What a process of `ProcessPool` runs.

Each process imports this, so it imports little. The metrics, for example, would create files that
stay when the process is killed.
"""

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

NICENESS = 10  # a tenth of the CPU time of the process that answers requests


def imported(_function: Callable[..., object]) -> None:
    """Do nothing. A process that gets the function has imported its module."""


def limited(limits: tuple[int, int], function: Callable[[*Ts], T], *arguments: *Ts) -> T:
    """Run a function within limits on CPU time in seconds, and on memory in bytes.

    The limit on CPU time ends a process whose parent was killed. If a container has no memory left,
    the system kills this process before the processes that answer requests.
    """
    import resource  # it exists on Unix only

    seconds, memory_bytes = limits
    usage = resource.getrusage(resource.RUSAGE_SELF)
    used = int(usage.ru_utime + usage.ru_stime)
    for kind, limit in (
        (resource.RLIMIT_CPU, used + seconds),
        (resource.RLIMIT_DATA, memory_bytes),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(kind)  # what the operator has set stays
        soft = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(kind, (soft, hard))
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, 0, NICENESS)
        with suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    return function(*arguments)
