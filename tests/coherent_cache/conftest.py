"""Each test process has a Valkey database of its own, which is flushed before each test."""

import os
from collections.abc import AsyncIterator, Iterator

import pytest
from redis.asyncio import Redis

from coherent_cache.client import open_server
from coherent_cache.config import CacheConfig
from tests.coherent_cache.harness import Harness
from tests.coherent_cache.worker import Loader, Worker, config_of, make_worker


@pytest.fixture(scope="session")
def config(worker_id: str) -> CacheConfig:
    """The default configuration, with timeouts that a busy machine does not exceed."""
    server, _, _ = os.environ["TEST_VALKEY_URL"].rpartition("/")
    database = 0 if worker_id == "master" else int(worker_id.removeprefix("gw")) + 1
    return config_of(f"{server}/{database}")


@pytest.fixture
async def valkey(config: CacheConfig) -> AsyncIterator[Redis]:
    """A client whose database is empty."""
    async with open_server(config) as valkey:
        await valkey.flushdb()
        yield valkey


@pytest.fixture
async def worker(valkey: Redis) -> Worker:
    return make_worker(valkey)


@pytest.fixture
async def loader() -> Loader:
    return Loader()


@pytest.fixture
def harness(config: CacheConfig, monkeypatch: pytest.MonkeyPatch) -> Iterator[Harness]:
    harness = Harness(open_server(config), monkeypatch)
    yield harness
    harness.close()
