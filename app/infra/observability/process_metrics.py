"""Sets the gauges of the process once a second: memory, event loop, and those of other layers."""

import asyncio
import os
import resource
import time
from collections.abc import Callable
from pathlib import Path

from app.infra.observability.metrics import LOOP_LAG, RESIDENT

NAPS = 20
NAP_SECONDS = 0.05
PAGE_BYTES = resource.getpagesize()
STATM = Path("/proc/self/statm")


async def sample(*measures: Callable[[], None]) -> None:
    """Set the gauges until cancelled. Each of `measures` sets the gauges of its layer."""
    while True:
        for measure in measures:
            measure()
        # Last, because opening the file fails when no file descriptor is free.
        RESIDENT.set(_resident_bytes())
        LOOP_LAG.set(await _largest_lag())


async def _largest_lag() -> float:
    """Return the largest delay of the event loop within one second of short naps."""
    largest = 0.0
    for _ in range(NAPS):
        started = time.monotonic()
        await asyncio.sleep(NAP_SECONDS)
        largest = max(largest, time.monotonic() - started - NAP_SECONDS)
    return largest


def _resident_bytes() -> int:
    if STATM.exists():
        return int(STATM.read_text(encoding="utf-8").split()[1]) * PAGE_BYTES
    scale = 1 if os.uname().sysname == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale
