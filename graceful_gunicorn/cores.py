"""The number of CPU cores that this process may use.

In a container this is often less than the number of cores of the machine.
"""

import os
from collections.abc import Iterator
from math import ceil
from pathlib import Path

CONTROL_GROUPS = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")


def available_cores() -> int:
    """Return the number of cores that CPU affinity and control groups allow.

    A fraction of a core counts as a whole core.
    """
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return min([cores, *map(ceil, _quotas())])


def _quotas() -> Iterator[float]:
    """Yield the limit, in cores, of each control group of this process that has a limit."""
    for group in _own_groups():
        match _words(CONTROL_GROUPS / group / "cpu.max"):
            case [quota, period] if quota != "max":
                yield int(quota) / int(period)
    version_1 = CONTROL_GROUPS / "cpu"
    match _words(version_1 / "cpu.cfs_quota_us"), _words(version_1 / "cpu.cfs_period_us"):
        case [quota], [period] if int(quota) > 0:
            yield int(quota) / int(period)


def _own_groups() -> Iterator[Path]:
    """Yield the control group of this process and its parents.

    A container sees its own group as the root.
    """
    own = next((line[3:] for line in _words(OWN_GROUPS) if line.startswith("0::")), "/")
    path = Path(own.lstrip("/"))
    yield from (path, *path.parents)


def _words(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").split()
    except OSError:
        return []
