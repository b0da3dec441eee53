"""What the figures were measured with."""

import os
import platform
from importlib.metadata import version
from pathlib import Path

from benchmarks.world import World
from dev.working_tree import commit

PACKAGES = ("fastapi", "uvicorn", "gunicorn", "uvloop", "httptools", "sqlalchemy", "asyncpg")


def describe(world: World) -> dict[str, str]:
    """Return the machine, the versions and the commit."""
    [row] = world.query("SHOW server_version")
    return {
        "cpu": _cpu(),
        "cores": str(os.cpu_count()),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "postgresql": str(row[0]),
        **{package: version(package) for package in PACKAGES},
        "posts": f"{world.effort.posts:,}",
        "rounds": f"{world.effort.rounds} of {world.effort.seconds:g} s",
        "commit": commit(),
    }


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()
