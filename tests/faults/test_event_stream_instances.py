"""Clients listen to new comments through a load balancer while the instances are replaced."""

import asyncio
import threading
from contextlib import AsyncExitStack
from pathlib import Path

import httpx2
import pytest

from dev.address import Address
from tests.faults.author import Author, sign_up
from tests.faults.balancer import HAPROXY, balancing
from tests.faults.conftest import Judge, Serve
from tests.faults.load import free_port
from tests.faults.postgres import Backend
from tests.faults.service import Service
from tests.faults.subscribers import Audience, commenting, subscribed
from tests.faults.verdicts import GUARDED

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(HAPROXY is None, reason="HAProxy is not installed"),
]
READERS = 100
# Longer than the balancer takes for two failed checks.
SERVER = {"drain_seconds": 3, "graceful_timeout_seconds": 20}
EVENTS = {"per_client": READERS}


class Listening:
    """Clients that listen and comment in a thread. Starting an instance blocks the event loop."""

    def __init__(self, front: Address, author: Author, backend: Backend) -> None:
        self.over = threading.Event()
        self._front, self._author, self._backend = front, author, backend

    def run(self) -> tuple[Audience, list[str]]:
        """Return the clients and what they did not get, when `over` is set."""
        return asyncio.run(self._run())

    async def _run(self) -> tuple[Audience, list[str]]:
        post, headers = self._author.post, self._author.headers
        async with (
            httpx2.AsyncClient(base_url=self._front.url, timeout=20) as client,
            subscribed(self._front, f"{post}/comments/stream", READERS) as readers,
        ):
            audience = Audience(readers, self._backend)
            async with commenting(client, post, headers):
                while not self.over.is_set():
                    await asyncio.sleep(0.1)
            broken = await audience.compare("when their instance had been replaced")
        broken += audience.refused()
        stayed = sum(one.connections == 1 for one in readers)
        return audience, broken + [f"{stayed} clients did not reconnect"] * bool(stayed)


@pytest.mark.parametrize("control", [GUARDED, "with streams that begin with the next event"])
async def test_clients_of_instances_that_are_replaced_get_every_comment_once(
    serve_cached: Serve, judge: Judge, backend: Backend, control: str, tmp_path: Path
) -> None:
    ports = [free_port() for _ in range(2)]
    stacks = [AsyncExitStack() for _ in ports]

    async def start(number: int) -> Service:
        served = serve_cached(control, server=SERVER, events=EVENTS, port=ports[number])
        return await stacks[number].enter_async_context(served)

    try:
        first, _ = await start(0), await start(1)
        author = await sign_up(first.client)
        with balancing([Address("127.0.0.1", port) for port in ports], tmp_path) as front:
            await asyncio.sleep(1)
            listening = Listening(front, author, backend)
            listened = asyncio.create_task(asyncio.to_thread(listening.run))
            for number, stack in enumerate(stacks):
                await asyncio.sleep(2)
                await stack.aclose()
                await start(number)
            await asyncio.sleep(2)
            listening.over.set()
            audience, broken = await listened
    finally:
        for stack in stacks:
            await stack.aclose()
    figure = f"{len(audience.stored)} comments for {READERS} clients: each got each comment once"
    judge("Instances are replaced one by one under event streams", control, figure, broken)
