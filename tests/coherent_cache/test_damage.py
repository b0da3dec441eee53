"""Damaged data in Valkey is a miss, never an answer, and the next read overwrites it."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from redis.asyncio import Redis

from coherent_cache import reader as reader_module
from coherent_cache.entry import Entry
from coherent_cache.reader import Source
from coherent_cache.store import Miss
from tests.coherent_cache.worker import Loader, Worker

ENTRY, TOKEN, LOG = "{c}e:r:key", "{c}t:tag:key", "{c}log"
Damage = Callable[[Any], Iterator[bytes]]
# The lowest bit, the highest bit, all bits, and the bits that turn the initial "V" into an "L".
MASKS = (0x01, 0x80, 0xFF, ord("V") ^ ord("L"))


@pytest.fixture
async def loader(worker: Worker) -> Loader:
    """A loader whose value has been read once, so that every key exists in Valkey."""
    loader = Loader(b"value")
    await worker.reader.read("key", loader.load)
    return loader


async def assert_overwritten(worker: Worker, loader: Loader) -> None:
    """Change the value, and check that it is loaded, stored, and then found in Valkey."""
    loader.value += b"+"
    loads = loader.loads
    answers = []
    for _ in range(3):
        worker.memory.clear()  # a copy in memory would hide what Valkey holds
        answers.append(await worker.reader.read("key", loader.load))
    assert [answer.entry.value for answer in answers] == [loader.value] * 3
    assert answers[-1].source is Source.VALKEY
    assert loads < loader.loads <= loads + 2


def flipped(raw: bytes) -> Iterator[bytes]:
    for mask in MASKS:
        for at in range(len(raw)):
            yield raw[:at] + bytes([raw[at] ^ mask]) + raw[at + 1 :]


def cut(raw: bytes) -> Iterator[bytes]:
    for at in range(len(raw)):
        yield raw[:at]
        yield raw[at + 1 :]
        yield raw[:at] + raw[at + 1 :]


def replaced(raw: bytes) -> Iterator[bytes]:
    yield raw + b"\x00"
    yield raw + raw
    for at in range(0, len(raw), 7):
        for length in (1, 2, 16, len(raw)):
            patch = b"\x00" * len(raw[at : at + length])
            yield raw[:at] + patch + raw[at + length :]
            yield raw[:at] + patch[::-1].replace(b"\x00", b"\xff") + raw[at + length :]


@pytest.mark.parametrize("damage", [flipped, cut, replaced])
async def test_damaged_entry_is_a_miss(
    worker: Worker, loader: Loader, valkey: Redis, damage: Damage
) -> None:
    raw: Any = await valkey.get(ENTRY)
    assert isinstance(await worker.store.look_up("key"), Entry)
    for damaged in damage(raw):
        if damaged != raw:
            await valkey.set(ENTRY, damaged)
            assert isinstance(await worker.store.look_up("key"), Miss), damaged
    await valkey.set(ENTRY, raw)
    assert isinstance(await worker.store.look_up("key"), Entry)


@pytest.mark.parametrize("key", [ENTRY, TOKEN])
@pytest.mark.parametrize("damage", [flipped, cut, replaced])
async def test_damaged_entry_or_token_is_overwritten(
    worker: Worker, loader: Loader, valkey: Redis, damage: Damage, key: str
) -> None:
    for damaged in list(damage(await valkey.get(key)))[::19]:
        await valkey.set(key, damaged)
        await assert_overwritten(worker, loader)


async def replace_key(valkey: Redis, key: str, kind: str) -> None:
    """Replace the value of a key with an invalid value of this kind."""
    await valkey.delete(key)
    match kind:
        case "empty":
            await valkey.set(key, "")
        case "string":
            await valkey.set(key, "garbage")
        case "lease":
            await valkey.set(key, b"L" + bytes(16))
        case "list":
            await valkey.rpush(key, "garbage")
        case "set":
            await valkey.sadd(key, "garbage")
        case "sorted set":
            await valkey.zadd(key, {"garbage": 1})
        case "hash":
            await valkey.hset(key, "garbage", "garbage")
        case "stream":
            await valkey.xadd(key, {"garbage": "garbage"})


KINDS = ("empty", "string", "lease", "list", "set", "sorted set", "hash", "stream")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("key", [ENTRY, TOKEN, LOG])
async def test_key_of_another_type_is_overwritten(
    worker: Worker,
    loader: Loader,
    valkey: Redis,
    monkeypatch: pytest.MonkeyPatch,
    key: str,
    kind: str,
) -> None:
    monkeypatch.setattr(reader_module, "MAX_LEASE_WAIT_SECONDS", 0.01)  # nobody holds this lease
    await replace_key(valkey, key, kind)
    if key == LOG:  # a look-up does not read the log
        await valkey.delete(ENTRY)
    await assert_overwritten(worker, loader)


@pytest.mark.parametrize("field", ["epoch", "n", "floor", TOKEN])
@pytest.mark.parametrize("value", ["", "0", "garbage", "-1", "9" * 15, "9" * 40, "nan", None])
async def test_damaged_log_is_recreated(
    worker: Worker, loader: Loader, valkey: Redis, field: str, value: str | None
) -> None:
    await worker.store.invalidate(["tag:key"])
    if value is None:
        await valkey.hdel(LOG, field)
    else:
        await valkey.hset(LOG, field, value)
    await assert_overwritten(worker, loader)
    await worker.store.invalidate(["tag:key"])
    await assert_overwritten(worker, loader)


@pytest.mark.parametrize("kind", KINDS)
async def test_change_is_shown_although_the_log_has_another_type(
    worker: Worker, loader: Loader, valkey: Redis, kind: str
) -> None:
    await replace_key(valkey, LOG, kind)
    await worker.store.invalidate(["tag:key"])
    await assert_overwritten(worker, loader)
