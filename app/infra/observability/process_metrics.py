"""Sets the gauges of the process once a second: its memory, and those of other layers."""

import asyncio
import os
import resource
from collections.abc import Callable
from pathlib import Path

from app.infra.observability.metrics import RESIDENT

PAUSE_SECONDS = 1.0
PAGE_BYTES = resource.getpagesize()
STATM = Path("/proc/self/statm")


async def sample(*measures: Callable[[], None]) -> None:
    """Set the gauges until cancelled. Each of `measures` sets the gauges of its layer."""
    while True:
        for measure in measures:
            measure()
        # Last, because opening the file fails when no file descriptor is free.
        RESIDENT.set(_resident_bytes())
        await asyncio.sleep(PAUSE_SECONDS)


def _resident_bytes() -> int:
    if STATM.exists():
        return int(STATM.read_text(encoding="utf-8").split()[1]) * PAGE_BYTES
    scale = 1 if os.uname().sysname == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale
