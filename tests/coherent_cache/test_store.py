"""The store returns only entries that belong to the key and have the current layout."""

import asyncio
import time
from dataclasses import replace

import pytest
from redis.asyncio import Redis
from redis.exceptions import SlotNotCoveredError

from coherent_cache import CacheConfig, NotFlushed, flush_cache
from coherent_cache import store as store_module
from coherent_cache.entry import Entry
from coherent_cache.store import CACHE_ERRORS, Lease, Miss, Store, random_token
from tests.coherent_cache.worker import CONFIG, Proxy


@pytest.fixture
async def store(valkey: Redis) -> Store:
    return Store(valkey, CONFIG)


async def fill(store: Store, entry: Entry) -> None:
    lease = await store.lease(entry.key, random_token(), b"")
    assert isinstance(lease, Lease)
    assert await store.fill(entry, lease)


async def can_lease(store: Store, key: str) -> bool:
    """Check that the look-up is a miss, and return whether a lease is granted after it."""
    found = await store.look_up(key)
    assert isinstance(found, Miss)
    return isinstance(await store.lease(key, random_token(), found.invalid_fill_id), Lease)


@pytest.mark.parametrize("tags", [(), ("tag",), ("tag", "über", "tag")])
async def test_look_up_returns_the_entry_unchanged(
    store: Store, valkey: Redis, tags: tuple[str]
) -> None:
    entry = Entry("key", tags, bytes(range(256)))
    await fill(store, entry)
    assert await store.look_up("key") == entry
    assert await Store(valkey, CONFIG).look_up("key") == entry


async def test_entry_under_another_key_is_a_miss(store: Store, valkey: Redis) -> None:
    await fill(store, Entry("mine", ("tag",), b"mine"))
    await valkey.copy(f"{store.prefix}e:r:mine", f"{store.prefix}e:r:yours")
    assert await can_lease(store, "yours")


async def test_entry_of_another_schema_is_a_miss(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(store_module, "SCHEMA", b"\x00")
        await fill(store, Entry("key", ("tag",), b"value"))
    assert await can_lease(store, "key")


async def test_tag_token_outlives_every_entry_that_contains_it(store: Store, valkey: Redis) -> None:
    await fill(store, Entry("long", ("tag",), b"", ttl_seconds=CONFIG.ttl_seconds))
    await fill(store, Entry("short", ("tag",), b"", ttl_seconds=1))
    assert await valkey.pttl(f"{store.prefix}t:tag") > await valkey.pttl(f"{store.prefix}e:r:long")


async def test_copy_is_not_valid_after_its_ttl_although_its_tags_are_unchanged(
    store: Store,
) -> None:
    entry = Entry("key", ("tag",), b"")
    await fill(store, entry)
    assert await store.is_valid(entry)
    entry.expires_at = time.time()
    assert not await store.is_valid(entry)


async def test_copy_without_tags_is_valid_until_its_ttl_ends(store: Store) -> None:
    entry = Entry("key", (), b"")
    await fill(store, entry)
    assert await store.is_valid(entry)
    entry.expires_at = time.time()
    assert not await store.is_valid(entry)


async def test_entry_that_has_no_tags_any_more_is_found(store: Store, valkey: Redis) -> None:
    await fill(store, Entry("key", ("tag",), b"old"))
    other = Store(valkey, CONFIG)
    await other.invalidate(["tag"])
    found = await other.look_up("key")
    assert isinstance(found, Miss)
    lease = await other.lease("key", random_token(), found.invalid_fill_id)
    assert isinstance(lease, Lease)
    assert await other.fill(Entry("key", (), b"new"), lease)
    assert await store.look_up("key") == Entry("key", (), b"new")


async def test_entry_expires_before_the_relays_give_up_its_invalidation(
    store: Store, valkey: Redis
) -> None:
    entry = Entry("key", ("tag",), b"", ttl_seconds=10 * CONFIG.ttl_seconds)
    await fill(store, entry)
    assert await valkey.pttl(f"{store.prefix}e:r:key") <= CONFIG.ttl_seconds * 1000
    found = await store.look_up("key")
    assert isinstance(found, Entry)
    for copy in (entry, found):  # memory may hold either
        assert copy.expires_at <= time.time() + CONFIG.ttl_seconds


async def test_released_lease_can_be_granted_again(store: Store) -> None:
    lease = await store.lease("key", random_token(), b"")
    assert isinstance(lease, Lease)
    assert not await can_lease(store, "key")
    await store.release("key", lease)
    assert await can_lease(store, "key")


@pytest.mark.parametrize(
    "raw",
    [
        *(b"", b"V", b"V\x01", b"V\x01" + bytes(18), b"another's", b"\xff" * 99),
        *(b"L" + bytes(15), b"L" + bytes(17), b"L" + bytes(99)),  # a lease has 16 bytes after "L"
    ],
)
async def test_value_that_is_no_entry_is_a_miss(store: Store, valkey: Redis, raw: bytes) -> None:
    await valkey.set(f"{store.prefix}e:r:key", raw)
    assert await can_lease(store, "key")


async def test_flush_removes_every_key_and_refuses_loads_in_progress(
    store: Store, valkey: Redis
) -> None:
    await valkey.set("another's", b"stays")
    await fill(store, Entry("key", ("tag",), b"value"))
    lease = await store.lease("other", random_token(), b"")
    assert isinstance(lease, Lease)
    await store.flush()
    assert await valkey.keys() == [b"another's"]
    assert not await store.fill(Entry("other", ("tag",), b"value"), lease)


async def test_flush_cache_returns_the_number_of_removed_keys(
    store: Store, config: CacheConfig
) -> None:
    await fill(store, Entry("key", ("tag",), b"value"))
    assert [await flush_cache(config) for _ in range(2)] == [3, 0]


async def test_flush_cache_waits_for_a_slow_valkey_longer_than_a_read_does(
    store: Store, config: CacheConfig, proxy: Proxy
) -> None:
    await fill(store, Entry("key", ("tag",), b"value"))
    await proxy.start()
    proxy.delay_seconds = 0.1
    impatient = replace(config, valkey_url=proxy.url, timeout_seconds=0.02)
    assert await flush_cache(impatient) == 3


@pytest.mark.parametrize("is_cluster", [False, True])
async def test_flush_of_an_unreachable_valkey_names_the_setting(
    config: CacheConfig, is_cluster: bool
) -> None:
    nowhere = replace(config, valkey_url="redis://127.0.0.1:1/0", is_cluster=is_cluster)
    with pytest.raises(NotFlushed, match="Check VALKEY_URL"):
        await flush_cache(nowhere)


async def test_releases_share_invalidations_but_not_entries(store: Store, valkey: Redis) -> None:
    newer = Store(valkey, replace(CONFIG, code_version="newer"))
    await fill(store, Entry("key", ("tag",), b"old"))
    assert isinstance(await newer.look_up("key"), Miss)
    await fill(newer, Entry("key", ("tag",), b"new"))
    await newer.invalidate(["tag"])
    for release in (store, newer):
        assert isinstance(await release.look_up("key"), Miss)


async def test_concurrent_look_ups_share_one_command(
    store: Store, valkey: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in ("one", "two"):
        await fill(store, Entry(key, ("tag",), b"value"))
    commands: list[int] = []
    mget = valkey.mget

    async def counted(keys: list[str]) -> object:
        commands.append(len(keys))
        return await mget(keys)

    monkeypatch.setattr(valkey, "mget", counted)
    found = await asyncio.gather(*(store.look_up(key) for key in ["one", "two"] * 50))
    assert all(isinstance(entry, Entry) for entry in found)
    assert commands == [3]


async def test_a_slot_without_an_owner_is_an_error_of_the_cache(store: Store) -> None:
    async def command() -> None:
        raise SlotNotCoveredError("Slot 1 is not covered by the cluster.")

    with pytest.raises(CACHE_ERRORS):
        await store._execute(command())
