"""Each test process has a database and a Valkey database of its own.

These tests need nothing else of the repository: they run in a copy that has no other package.
"""

import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import pytest
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import create_async_engine

from coherent_cache import budget, channel, trust
from coherent_cache.client import open_server
from coherent_cache.config import CacheConfig
from coherent_cache.relay import Relay
from tests.coherent_cache.harness import Harness
from tests.coherent_cache.service import Service, create_database, metadata, open_service
from tests.coherent_cache.worker import (
    Loader,
    Proxy,
    Worker,
    config_of,
    eventually,
    make_worker,
)

LIVE_SECONDS, RUN_RELAY = channel.LIVE_SECONDS, Relay.run


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let trust and reads last on a busy machine. All else is as in production.

    Other tests of the same session may have replaced the channel's limit and the relay.
    """
    monkeypatch.setattr(trust, "LEASE_SECONDS", float("inf"))
    monkeypatch.setattr(budget, "READ_SECONDS", 60)
    monkeypatch.setattr(channel, "LIVE_SECONDS", LIVE_SECONDS)
    monkeypatch.setattr(Relay, "run", RUN_RELAY)


@pytest.fixture(scope="session")
def config(worker_id: str) -> CacheConfig:
    """A configuration whose limits a busy machine does not exceed."""
    server, _, database = os.environ["TEST_VALKEY_URL"].rpartition("/")
    number = int(database) if worker_id == "master" else int(worker_id.removeprefix("gw")) + 1
    return config_of(f"{server}/{number}")


@pytest.fixture(scope="session")
async def database_url(worker_id: str) -> str:
    """A database with nothing but the table `cache_outbox`."""
    url = await create_database(f"cache_{worker_id}_{os.getpid()}")
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
    await engine.dispose()
    return url


@pytest.fixture
async def valkey(config: CacheConfig) -> AsyncIterator[Redis]:
    """A client whose database is empty."""
    async with open_server(config) as valkey:
        await valkey.flushdb()
        yield valkey


@pytest.fixture
async def proxy(config: CacheConfig) -> AsyncIterator[Proxy]:
    """A proxy before Valkey, which does not listen at first."""
    proxy = Proxy(config.valkey_url)
    yield proxy
    proxy.stop()


@pytest.fixture
async def worker(valkey: Redis) -> Worker:
    return make_worker(valkey)


@pytest.fixture
async def loader() -> Loader:
    return Loader()


@pytest.fixture
async def service(config: CacheConfig, database_url: str, valkey: Redis) -> AsyncIterator[Service]:
    """A service with a database and a cache. Its relay runs only when a test says so.

    The rows are deleted after each test: the next service polls the outbox when it starts, and an
    old row would make it distrust its cache.
    """
    async with open_service(config, database_url) as service:
        # The channel empties the memory when it connects.
        await eventually(lambda: service.cache.channel.is_live)
        yield service
        await service.delete_rows()


@pytest.fixture
async def cut_off(
    config: CacheConfig, database_url: str, proxy: Proxy, service: Service
) -> AsyncIterator[Service]:
    """Another process of the service, which reaches Valkey only through the proxy."""
    far = replace(config, valkey_url=proxy.url)
    async with open_service(far, database_url) as cut_off:
        yield cut_off


@pytest.fixture
def harness(config: CacheConfig, monkeypatch: pytest.MonkeyPatch) -> Iterator[Harness]:
    harness = Harness(open_server(config), monkeypatch)
    yield harness
    harness.close()
