"""The memory tier: entries in the process, bounded in bytes and in time.

The channel tells this tier which tags other processes have invalidated. Everything here runs in the
event loop's thread, and nothing awaits.
"""

import time
from collections import OrderedDict, defaultdict

from cachetools import LRUCache

from coherent_cache.entry import Entry

MAX_RECORDED_TAGS = 10_000
# The size of an entry without its value. The value counts twice: once as bytes, once as its view.
ENTRY_BYTES, TAG_BYTES = 1_500, 500


class Memory:
    """Entries that are fresh for `ttl_seconds`. Later they are copies that Valkey must validate.

    A read calls `begin_read` before it looks an entry up or loads it, and `put` afterwards. `put`
    discards the entry if one of its tags was invalidated in between.
    """

    def __init__(self, max_bytes: int, ttl_seconds: float) -> None:
        self._entries = _TaggedCache(max_bytes)
        self._ttl_seconds = ttl_seconds
        self._clock = 0  # a logical clock, advanced by every invalidation
        self._cleared_at = 0
        self._invalidated_at: LRUCache[str, int] = LRUCache(MAX_RECORDED_TAGS)

    def get(self, key: str) -> Entry | None:
        """Return the entry, if memory holds it and it is fresh."""
        entry = self._entries.get(key)
        if entry is None or entry.validated_at + self._ttl_seconds <= time.monotonic():
            return None
        return entry

    def get_copy(self, key: str) -> Entry | None:
        """Return the entry, even if it is no longer fresh. The caller must validate it."""
        return self._entries.get(key)

    @property
    def bytes_held(self) -> int:
        return self._entries.currsize

    def begin_read(self) -> int:
        """Return the logical time at which a read begins. Pass it to `put`."""
        return self._clock

    def put(self, entry: Entry, began: int) -> None:
        """Keep an entry, unless one of its tags was invalidated after the read `began`."""
        if began != self._clock and self._was_invalidated_since(entry, began):
            return
        entry.validated_at = time.monotonic()
        if self.get_copy(entry.key) is not entry and _size(entry) <= self._entries.maxsize:
            # Copy the value, because bytes from orjson may occupy 4 kB more than their length.
            entry.value = bytes(memoryview(entry.value))
            self._entries.put(entry)

    def discard(self, key: str) -> None:
        """Remove an entry that Valkey no longer considers valid."""
        self._entries.remove(key)

    def invalidate(self, tags: list[str]) -> None:
        """Remove every entry that has one of `tags`, and record when the tags were invalidated."""
        self._clock += 1
        for tag in tags:
            if len(self._invalidated_at) == MAX_RECORDED_TAGS and tag not in self._invalidated_at:
                self._forget_invalidations()
            self._invalidated_at[tag] = self._clock
            self._entries.remove_tag(tag)

    def clear(self) -> None:
        """Remove every entry, because invalidations may have been missed."""
        self._clock += 1
        self._entries.clear()
        self._forget_invalidations()

    def _was_invalidated_since(self, entry: Entry, began: int) -> bool:
        return began < self._cleared_at or any(
            self._invalidated_at.get(tag, 0) > began for tag in entry.tags
        )

    def _forget_invalidations(self) -> None:
        """Forget the recorded tags. `put` then refuses every read that has already begun."""
        self._cleared_at = self._clock
        self._invalidated_at.clear()


class _TaggedCache:
    """The entries that were used last, within `maxsize` bytes, with an index of their tags.

    `OrderedDict` is used because an operation of `cachetools` takes several times as long, and a
    read needs about five.
    """

    def __init__(self, max_bytes: int) -> None:
        self.maxsize, self.currsize = max_bytes, 0
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        self._keys_by_tag: defaultdict[str, set[str]] = defaultdict(set)

    def get(self, key: str) -> Entry | None:
        entry = self._entries.get(key)
        if entry is not None:
            self._entries.move_to_end(key)
        return entry

    def put(self, entry: Entry) -> None:
        self.remove(entry.key)
        self._entries[entry.key] = entry
        self.currsize += _size(entry)
        for tag in entry.tags:
            self._keys_by_tag[tag].add(entry.key)
        while self.currsize > self.maxsize:
            self.remove(next(iter(self._entries)))

    def remove(self, key: str) -> None:
        entry = self._entries.pop(key, None)
        if entry is None:
            return
        self.currsize -= _size(entry)
        for tag in entry.tags:
            keys = self._keys_by_tag[tag]
            keys.discard(key)
            if not keys:
                del self._keys_by_tag[tag]

    def remove_tag(self, tag: str) -> None:
        for key in list(self._keys_by_tag.get(tag, ())):
            self.remove(key)

    def clear(self) -> None:
        self._entries.clear()
        self._keys_by_tag.clear()
        self.currsize = 0


def _size(entry: Entry) -> int:
    return 2 * len(entry.value) + len(entry.tags) * TAG_BYTES + ENTRY_BYTES
