"""Measures what has no moment of its own: pool, memory, the event loop. Once a second."""

import asyncio
import os
import resource
import time
from collections.abc import Callable
from pathlib import Path

from app.infra.observability import metrics

SAMPLES = 20
SAMPLE_SECONDS = 0.05
PAGE_BYTES = resource.getpagesize()
STATM = Path("/proc/self/statm")

Gauge = Callable[[], None]


async def sample(*gauges: Gauge) -> None:
    """Sample until cancelled; each of `gauges` sets its own."""
    metrics.WORKERS.set(1)
    while True:
        for gauge in gauges:
            gauge()
        # This opens a file, so it is last: it fails while the process has no free descriptor.
        metrics.RESIDENT.set(_resident_bytes())
        metrics.LOOP_LAG.set(await _largest_lag())


async def _largest_lag() -> float:
    """Return by how much the loop came late at most, in a second of short naps."""
    largest = 0.0
    for _ in range(SAMPLES):
        began = time.monotonic()
        await asyncio.sleep(SAMPLE_SECONDS)
        largest = max(largest, time.monotonic() - began - SAMPLE_SECONDS)
    return largest


def _resident_bytes() -> int:
    if STATM.exists():
        return int(STATM.read_text(encoding="utf-8").split()[1]) * PAGE_BYTES
    scale = 1 if os.uname().sysname == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale
