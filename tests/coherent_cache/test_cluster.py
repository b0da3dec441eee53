"""On a cluster, a failover acts like a flush, and the channel follows the owner of the slot."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from redis.exceptions import SlotNotCoveredError

from coherent_cache import channel as channel_module
from coherent_cache.client import open_cluster
from coherent_cache.cluster import ClusterChannel, ClusterStore, OwnerChanged, ValkeyCluster
from coherent_cache.config import CacheConfig
from coherent_cache.entry import Entry
from coherent_cache.memory import Memory
from coherent_cache.store import CACHE_ERRORS, Lease, Miss, random_token
from tests.coherent_cache.cluster import Cluster, start_cluster
from tests.coherent_cache.worker import CONFIG, eventually


@pytest.fixture(scope="module")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    async with start_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture
async def config(cluster: Cluster) -> CacheConfig:
    await cluster.primary.ask("FLUSHALL")
    return replace(CONFIG, valkey_url=cluster.primary.url, is_cluster=True)


@pytest.fixture
async def client(config: CacheConfig) -> AsyncIterator[ValkeyCluster]:
    async with open_cluster(config) as client:
        assert isinstance(client, ValkeyCluster)
        yield client


@pytest.fixture
async def store(client: ValkeyCluster, config: CacheConfig) -> ClusterStore:
    return await make_store(client, config)


@pytest.fixture
async def other(config: CacheConfig) -> AsyncIterator[ClusterStore]:
    """The store of another process."""
    async with open_cluster(config) as client:
        assert isinstance(client, ValkeyCluster)
        yield await make_store(client, config)


async def make_store(client: ValkeyCluster, config: CacheConfig) -> ClusterStore:
    store = ClusterStore(client, config)
    with pytest.raises(OwnerChanged):
        await store.probe()
    return store


async def fill(store: ClusterStore) -> None:
    lease = await store.lease("key", random_token(), b"", force=True)
    assert isinstance(lease, Lease)
    assert await store.fill(Entry("key", ("tag",), b"value"), lease)


async def look_up_after_failover(store: ClusterStore) -> Entry | Miss:
    with pytest.raises(OwnerChanged):
        await store.look_up("key")
    return await store.look_up("key")


async def test_entry_is_found_until_its_tag_is_invalidated(store: ClusterStore) -> None:
    await fill(store)
    assert isinstance(await store.look_up("key"), Entry)
    await store.invalidate(["tag"])
    assert isinstance(await store.look_up("key"), Miss)


async def test_scripts_run_on_a_node_that_has_forgotten_them(
    store: ClusterStore, cluster: Cluster
) -> None:
    await cluster.primary.ask("SCRIPT", "FLUSH")
    await fill(store)
    assert isinstance(await store.look_up("key"), Entry)


async def test_new_owner_that_missed_an_invalidation_serves_no_stale_entry(
    store: ClusterStore, cluster: Cluster
) -> None:
    await fill(store)
    keys = await cluster.primary.ask("KEYS", "*")
    before = {key: await cluster.primary.ask("DUMP", key) for key in keys}
    await store.invalidate(["tag"])
    await cluster.fail_over()
    for key, value in before.items():
        await cluster.primary.ask("RESTORE", key, 0, value, "REPLACE")
    assert isinstance(await look_up_after_failover(store), Miss)


async def test_new_owner_is_emptied_by_one_process_only(
    store: ClusterStore, other: ClusterStore, cluster: Cluster
) -> None:
    await fill(store)
    await cluster.fail_over()
    assert isinstance(await look_up_after_failover(store), Miss)
    await fill(store)
    assert isinstance(await look_up_after_failover(other), Entry)


async def test_invalidation_after_a_failover_reaches_the_new_owner(
    store: ClusterStore, other: ClusterStore, cluster: Cluster
) -> None:
    await cluster.fail_over()
    assert isinstance(await look_up_after_failover(store), Miss)
    await fill(store)
    await other.invalidate(["tag"])
    assert isinstance(await store.look_up("key"), Miss)


async def test_unreachable_cluster_is_an_error_of_the_cache(config: CacheConfig) -> None:
    nowhere = replace(config, valkey_url="redis://127.0.0.1:1/0")
    client = open_cluster(nowhere)
    with pytest.raises(CACHE_ERRORS):
        await ClusterStore(client, nowhere).probe()
    await client.aclose()


async def test_waiting_commands_do_not_use_up_the_connections(config: CacheConfig) -> None:
    async with open_cluster(replace(config, max_connections=1)) as client:
        answers: list[Any] = await asyncio.gather(*(client.get("{c}") for _ in range(50)))
    assert answers == [None] * 50


@pytest.fixture
async def channel(
    client: ValkeyCluster, store: ClusterStore, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[ClusterChannel]:
    """A channel that listens, with one entry in its memory."""
    monkeypatch.setattr(channel_module, "PING_SECONDS", 0.05)
    memory = Memory(CONFIG.memory_bytes, CONFIG.memory_ttl_seconds)
    channel = ClusterChannel(client, store.channel, memory)
    task = asyncio.create_task(channel.run())
    await eventually(lambda: channel.is_live)
    memory.put(Entry("key", ("tag",), b""), memory.begin_read())
    yield channel
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def test_channel_receives_the_invalidations_of_other_processes(
    channel: ClusterChannel, other: ClusterStore
) -> None:
    await other.invalidate(["tag"])
    await eventually(lambda: channel._memory.get("key") is None)


async def test_channel_is_not_live_until_it_listens_at_the_new_owner(
    channel: ClusterChannel, store: ClusterStore, other: ClusterStore, cluster: Cluster
) -> None:
    await cluster.fail_over()
    assert isinstance(await look_up_after_failover(store), Miss)
    assert not channel.is_live
    await eventually(lambda: channel.is_live)
    memory = channel._memory
    assert memory.get("key") is None
    memory.put(Entry("key", ("tag",), b""), memory.begin_read())
    await other.invalidate(["tag"])
    await eventually(lambda: memory.get("key") is None)


async def test_channel_is_not_live_while_no_node_owns_the_slot(
    channel: ClusterChannel, client: ValkeyCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_key: str) -> None:
        raise SlotNotCoveredError("Slot 1 is not covered by the cluster.")

    monkeypatch.setattr(client, "get_node_from_key", fail)
    assert not channel.is_live
