"""New connections are shared evenly between the workers."""

import asyncio
import os
import signal
import time
from collections import Counter
from statistics import median

import pytest

from tests.faults.conftest import Judge, Serve
from tests.faults.service import WORKER_CLASSES, WORKERS
from tests.faults.wire import Wire

pytestmark = pytest.mark.faults
CONNECTIONS, ROUNDS = 64, 5
LARGEST_SHARE = 0.55
BACK_SECONDS, MOST_SECONDS = 15.0, 20.0


async def share(wires: list[Wire]) -> tuple[float, set[int]]:
    """Ask on each connection which worker serves it. Return the largest share, and the workers."""
    replies = await asyncio.gather(*(wire.get("/faults/vitals") for wire in wires))
    answered = [reply for reply in replies if reply.status == 200]
    workers = Counter(reply.json()["process_id"] for reply in answered)
    return max(workers.values()) / len(answered), set(workers)


@pytest.mark.parametrize("control", WORKER_CLASSES)
async def test_connections_are_shared_evenly_between_workers(
    serve: Serve, judge: Judge, control: str
) -> None:
    async with serve(control, worker_class=WORKER_CLASSES[control]) as service:
        shares = []
        for _ in range(ROUNDS):
            wires = [Wire(service.address) for _ in range(CONNECTIONS)]
            shares.append((await share(wires))[0])
            for wire in wires:
                wire.close()
            await asyncio.sleep(0.5)
        wires = [Wire(service.address) for _ in range(CONNECTIONS)]
        _, old = await share(wires)
        os.kill(min(old), signal.SIGTERM)
        told_at, back_at = time.monotonic(), float("inf")
        while back_at == float("inf") and time.monotonic() < told_at + MOST_SECONDS:
            await asyncio.sleep(0.1)
            largest, workers = await share(wires)
            if len(workers - old) == 1 and len(workers) == WORKERS and largest <= LARGEST_SHARE:
                back_at = time.monotonic()
        for wire in wires:
            wire.close()
    usual = median(shares)
    broken = [f"one worker had {usual:.0%} of the connections"] * (usual > LARGEST_SHARE)
    broken += [f"one worker still had {largest:.0%} after {MOST_SECONDS:.0f} s"] * (
        back_at > told_at + BACK_SECONDS
    )
    figure = (
        f"one worker had {usual:.0%} of {CONNECTIONS} connections (at most {max(shares):.0%} in "
        f"{ROUNDS} rounds); evenly shared again {back_at - told_at:.1f} s after SIGTERM to a worker"
    )
    judge(
        f"{CONNECTIONS} connections are distributed, and a worker is replaced",
        control,
        figure,
        broken,
    )
