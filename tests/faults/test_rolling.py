"""Instances behind a load balancer are replaced one by one, and no client notices."""

import asyncio
import threading
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from dev.address import Address
from tests.faults.author import sign_up
from tests.faults.balancer import HAPROXY, balancing
from tests.faults.callers import Calls, calling, until_enough
from tests.faults.conftest import Judge, Serve
from tests.faults.load import free_port
from tests.faults.service import Service
from tests.faults.verdicts import GUARDED

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(HAPROXY is None, reason="HAProxy is not installed"),
]
LEAST = 20_000
# Longer than the balancer takes for two failed checks.
DRAIN_SECONDS = {GUARDED: 3, "without the drain": 0}


def call_until(over: threading.Event, address: Address, path: str) -> Calls:
    """Send requests in this thread. Starting an instance blocks the event loop of the test."""

    async def call_on() -> Calls:
        async with calling(address, path) as calls:
            while not over.is_set():
                await asyncio.sleep(0.1)
            await until_enough(calls, LEAST)
        return calls

    return asyncio.run(call_on())


@pytest.mark.parametrize("control", DRAIN_SECONDS)
async def test_instances_are_replaced_one_by_one(
    serve: Serve, judge: Judge, tmp_path: Path, control: str
) -> None:
    server = {"drain_seconds": DRAIN_SECONDS[control], "graceful_timeout_seconds": 20}
    ports = [free_port() for _ in range(2)]
    stacks = [AsyncExitStack() for _ in ports]

    async def start(number: int) -> Service:
        served = serve(control, server=server, port=ports[number])
        return await stacks[number].enter_async_context(served)

    try:
        first, _ = await start(0), await start(1)
        post = (await sign_up(first.client)).post
        with balancing([Address("127.0.0.1", port) for port in ports], tmp_path) as front:
            await asyncio.sleep(1)
            over = threading.Event()
            called = asyncio.create_task(asyncio.to_thread(call_until, over, front, post))
            for number, stack in enumerate(stacks):
                await asyncio.sleep(2)
                await stack.aclose()
                await start(number)
            await asyncio.sleep(2)
            over.set()
            calls = await called
    finally:
        for stack in stacks:
            await stack.aclose()
    figure = f"{sum(calls.lost.values())} of {len(calls.replies):,} requests lost"
    judge("Instances behind HAProxy are replaced one by one", control, figure, calls.broken(LEAST))
