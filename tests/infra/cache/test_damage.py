"""What is damaged in Valkey is a miss, and the next read overwrites it. It is never an answer."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from redis.asyncio import Redis

from app.infra.cache import read_through
from app.infra.cache.entry import Entry
from app.infra.cache.read_through import Source as From
from app.infra.cache.store import Miss
from tests.infra.cache.worker import Source, Worker, make_worker

ENTRY, TOKEN, LOG = "{c}e:r:key", "{c}t:tag:key", "{c}log"
Damage = Callable[[Any], Iterator[bytes]]
# A bit, all bits, and what makes an "L" of the "V" with which an entry begins.
MASKS = (0x01, 0x80, 0xFF, ord("V") ^ ord("L"))


@pytest.fixture
async def worker(valkey: Redis) -> Worker:
    return make_worker(valkey)


@pytest.fixture
async def source(worker: Worker) -> Source:
    """What has been read once, so that every key is there."""
    source = Source(b"value")
    await worker.reader.read("key", source.load)
    return source


async def assert_overwritten(worker: Worker, source: Source) -> None:
    """Change the value, and read: the new value is loaded, stored, and then found."""
    source.value += b"+"
    loads = source.loads
    answers = []
    for _ in range(3):
        worker.memory.clear()  # a copy of this process would hide what is stored
        answers.append(await worker.reader.read("key", source.load))
    assert [answer.entry.value for answer in answers] == [source.value] * 3
    assert answers[-1].source is From.VALKEY
    assert loads < source.loads <= loads + 2


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
async def test_a_damaged_entry_is_a_miss(
    worker: Worker, source: Source, valkey: Redis, damage: Damage
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
async def test_a_damaged_entry_or_token_is_overwritten(
    worker: Worker, source: Source, valkey: Redis, damage: Damage, key: str
) -> None:
    for damaged in list(damage(await valkey.get(key)))[::19]:
        await valkey.set(key, damaged)
        await assert_overwritten(worker, source)


async def make(valkey: Redis, key: str, kind: str) -> None:
    """Put something else in a key's place."""
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
async def test_a_key_of_another_type_is_overwritten(
    worker: Worker,
    source: Source,
    valkey: Redis,
    monkeypatch: pytest.MonkeyPatch,
    key: str,
    kind: str,
) -> None:
    monkeypatch.setattr(read_through, "LONGEST_WAIT_SECONDS", 0.01)  # for the lease of nobody
    await make(valkey, key, kind)
    if key == LOG:  # a look-up does not read it
        await valkey.delete(ENTRY)
    await assert_overwritten(worker, source)


@pytest.mark.parametrize("field", ["epoch", "n", "floor", TOKEN])
@pytest.mark.parametrize("value", ["", "0", "garbage", "-1", "9" * 15, "9" * 40, "nan", None])
async def test_a_damaged_log_is_made_anew(
    worker: Worker, source: Source, valkey: Redis, field: str, value: str | None
) -> None:
    await worker.store.invalidate(["tag:key"])
    if value is None:
        await valkey.hdel(LOG, field)
    else:
        await valkey.hset(LOG, field, value)
    await assert_overwritten(worker, source)
    await worker.store.invalidate(["tag:key"])
    await assert_overwritten(worker, source)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_change_is_seen_whatever_stands_in_the_place_of_the_log(
    worker: Worker, source: Source, valkey: Redis, kind: str
) -> None:
    await make(valkey, LOG, kind)
    await worker.store.invalidate(["tag:key"])
    await assert_overwritten(worker, source)
