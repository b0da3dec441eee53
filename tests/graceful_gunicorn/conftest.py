"""A server with the default limits, and a connection to it."""

from collections.abc import AsyncIterator

import pytest

from graceful_gunicorn import protocol_class
from tests.graceful_gunicorn.loopback_server import CONFIG, Client, LoopbackServer, serving


@pytest.fixture
async def server() -> AsyncIterator[LoopbackServer]:
    async with serving(protocol_class(CONFIG)) as server:
        yield server


@pytest.fixture
async def client(server: LoopbackServer) -> Client:
    return await server.connect()
