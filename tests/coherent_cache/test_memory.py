"""The memory tier and its index of tags stay within their bounds."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from coherent_cache import memory as memory_module
from coherent_cache.entry import Entry
from coherent_cache.memory import ENTRY_BYTES, Memory
from tests.coherent_cache.harness import Clock

MAX_BYTES = 100_000


@pytest.fixture
def memory() -> Memory:
    return Memory(MAX_BYTES, ttl_seconds=3_600)


def put(memory: Memory, key: str, *tags: str, value: bytes = b"") -> None:
    memory.put(Entry(key, tags, value), memory.begin_read())


def test_many_entries_stay_within_the_bound(memory: Memory) -> None:
    for number in range(100_000):
        put(memory, f"key:{number}", f"tag:{number}", "everything", value=bytes(number % 300))
    entries = memory._entries
    assert MAX_BYTES - 2 * ENTRY_BYTES < entries.currsize <= MAX_BYTES
    assert memory.get("key:99999") is not None
    kept = {number for number in range(100_000) if memory.get(f"key:{number}") is not None}
    assert entries._keys_by_tag["everything"] == {f"key:{number}" for number in kept}
    assert entries._keys_by_tag.keys() == {"everything", *(f"tag:{number}" for number in kept)}


SCRIPT = """
import resource
import orjson
from pathlib import Path
from coherent_cache.entry import Entry
from coherent_cache.memory import Memory

def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

memory = Memory(2**30, ttl_seconds=3_600)
before = resident_bytes()
for number in range(10_000):
    value = orjson.dumps({"name": "n" * 200})
    memory.put(Entry(f"key:{number}", (f"tag:{number}",), value), memory.begin_read())
print((resident_bytes() - before) / memory.bytes_held)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
def test_entries_take_no_more_memory_than_estimated() -> None:
    found = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, check=True)
    assert float(found.stdout) < 1


def test_removed_entries_leave_the_index(memory: Memory) -> None:
    removals: dict[str, Callable[[], object]] = {
        "invalidate": lambda: memory.invalidate(["tag", "other"]),
        "clear": memory.clear,
    }
    for name, remove in removals.items():
        put(memory, "key", "tag", "other")
        remove()
        assert not memory._entries._keys_by_tag, name
        assert memory.get("key") is None, name


def test_replaced_entry_leaves_the_index_of_its_old_tags(memory: Memory) -> None:
    put(memory, "key", "old", value=b"1")
    put(memory, "key", "new", value=b"2")
    memory.invalidate(["old"])
    assert memory.get("key") == Entry("key", ("new",), b"2")
    assert memory._entries._keys_by_tag.keys() == {"new"}


def test_entry_is_fresh_for_the_ttl_and_then_a_copy(
    memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(memory_module, "time", clock)
    put(memory, "key", "tag")
    clock.now += 3_599
    assert memory.get("key") is not None
    clock.now += 2
    assert memory.get("key") is None
    copy = memory.get_copy("key")
    assert copy is not None
    memory.put(copy, memory.begin_read())
    assert memory.get("key") is copy
    memory.invalidate(["tag"])
    assert memory.get_copy("key") is None


def test_entries_that_were_used_last_are_kept(memory: Memory) -> None:
    for key in ("used", "unused", "new"):
        put(memory, key, "tag", value=bytes(MAX_BYTES // 5))
        memory.get("used")
    assert [memory.get(key) is not None for key in ("used", "unused", "new")] == [True, False, True]


def test_entry_that_is_larger_than_the_memory_is_not_kept(memory: Memory) -> None:
    put(memory, "small", "tag")
    put(memory, "large", "tag", value=bytes(MAX_BYTES))
    assert memory.get("large") is None
    assert memory.get("small") is not None


def test_recorded_tags_are_bounded_and_older_reads_are_still_refused(
    memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_module, "MAX_RECORDED_TAGS", 3)
    began = memory.begin_read()
    for number in range(10):
        memory.invalidate([f"tag:{number}"])
        assert len(memory._invalidated_at) <= 3
    for number in range(10):
        memory.put(Entry(f"key:{number}", (f"tag:{number}",), b""), began)
        assert memory.get(f"key:{number}") is None
