"""A Valkey database of this test process alone: flushed before each test, and nobody else's."""

import os
from collections.abc import AsyncIterator, Iterator

import pytest
from redis.asyncio import Redis

from app.infra.cache.client import open_server
from app.sections import ValkeySettings
from tests.infra.cache.laboratory import Laboratory


@pytest.fixture(scope="session")
def valkey_settings(worker_id: str) -> ValkeySettings:
    """Production's settings, with a patience that a busy machine does not try."""
    server, _, _ = os.environ["TEST_VALKEY_URL"].rpartition("/")
    database = 0 if worker_id == "master" else int(worker_id.removeprefix("gw")) + 1
    return ValkeySettings.model_validate({"url": f"{server}/{database}", "timeout_seconds": 5})


@pytest.fixture
async def valkey(valkey_settings: ValkeySettings) -> AsyncIterator[Redis]:
    """The client of a process, its database empty."""
    async with open_server(valkey_settings) as valkey:
        await valkey.flushdb()
        yield valkey


@pytest.fixture
def laboratory(
    valkey_settings: ValkeySettings, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Laboratory]:
    """An event loop that stands still between the steps of a test, and a clock likewise."""
    laboratory = Laboratory(open_server(valkey_settings), monkeypatch)
    yield laboratory
    laboratory.close()
