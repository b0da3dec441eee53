"""The tier in process keeps within its bounds, and its index of tags with it."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from app.infra.cache import memory as memory_module
from app.infra.cache.entry import Entry
from app.infra.cache.memory import ENTRY_BYTES, Memory
from tests.infra.cache.laboratory import Clock

MAX_BYTES = 100_000


@pytest.fixture
def memory() -> Memory:
    return Memory(MAX_BYTES, ttl_seconds=3_600)


def put(memory: Memory, key: str, *tags: str, value: bytes = b"") -> None:
    memory.put(Entry(key, tags, value), memory.begin())


def test_many_keys_take_no_more_than_the_bound(memory: Memory) -> None:
    for number in range(100_000):
        put(memory, f"key:{number}", f"tag:{number}", "everything", value=bytes(number % 300))
    entries = memory._entries
    assert MAX_BYTES - 2 * ENTRY_BYTES < entries.currsize <= MAX_BYTES
    assert memory.get("key:99999") is not None
    assert entries._by_tag.keys() == {tag for entry in entries.values() for tag in entry.tags}
    assert entries._by_tag["everything"] == set(entries)


WORK = """
import resource
import orjson
from pathlib import Path
from app.infra.cache.entry import Entry
from app.infra.cache.memory import Memory

def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

memory = Memory(2**30, ttl_seconds=3_600)
before = resident_bytes()
for number in range(10_000):
    value = orjson.dumps({"name": "n" * 200})
    memory.put(Entry(f"key:{number}", (f"tag:{number}",), value), memory.begin())
print((resident_bytes() - before) / memory.bytes_held)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
def test_entries_take_no_more_than_they_are_counted_for() -> None:
    found = subprocess.run([sys.executable, "-c", WORK], capture_output=True, check=True)
    assert float(found.stdout) < 1


def test_the_index_empties_with_the_entries(memory: Memory) -> None:
    leave: dict[str, Callable[[], object]] = {
        "dropped": lambda: memory.drop(["tag", "other"]),
        "cleared": memory.clear,
    }
    for way, happens in leave.items():
        put(memory, "key", "tag", "other")
        happens()
        assert not memory._entries._by_tag, way
        assert memory.get("key") is None, way


def test_an_entry_takes_its_old_tags_along(memory: Memory) -> None:
    put(memory, "key", "old", value=b"1")
    put(memory, "key", "new", value=b"2")
    memory.drop(["old"])
    assert memory.get("key") == Entry("key", ("new",), b"2")
    assert memory._entries._by_tag.keys() == {"new"}


def test_an_entry_is_fresh_for_its_time_and_a_copy_after_it(
    memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(memory_module, "time", clock)
    put(memory, "key", "tag")
    clock.now += 3_599
    assert memory.get("key") is not None
    clock.now += 2
    assert memory.get("key") is None
    copy = memory.copy("key")
    assert copy is not None
    memory.put(copy, memory.begin())
    assert memory.get("key") is copy
    memory.drop(["tag"])
    assert memory.copy("key") is None


def test_what_is_larger_than_the_memory_is_not_kept(memory: Memory) -> None:
    put(memory, "small", "tag")
    put(memory, "large", "tag", value=bytes(MAX_BYTES))
    assert memory.get("large") is None
    assert memory.get("small") is not None


def test_what_was_heard_is_bounded_and_still_refuses(
    memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_module, "MOST_HEARD", 3)
    began = memory.begin()
    for number in range(10):
        memory.drop([f"tag:{number}"])
        assert len(memory._heard) <= 3
    for number in range(10):
        memory.put(Entry(f"key:{number}", (f"tag:{number}",), b""), began)
        assert memory.get(f"key:{number}") is None
