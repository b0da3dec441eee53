"""The tier in process: bounded in bytes and in time, and emptied by what the channel says.

Everything here runs in the event loop's thread, and nothing waits.
"""

import time
from collections import defaultdict
from collections.abc import Callable

from cachetools import LRUCache

from app.infra.cache.entry import Entry

MOST_HEARD = 10_000
# What an entry takes beside its value, which may be there twice: as it came, and as its view.
ENTRY_BYTES, TAG_BYTES = 1_500, 500


class Memory:
    """Entries that are fresh for `ttl_seconds`, and then copies that Valkey may still call valid.

    `put` refuses what may have changed since it was read.
    """

    def __init__(self, max_bytes: int, ttl_seconds: float) -> None:
        self._entries = _TaggedCache(max_bytes, getsizeof=_size)
        self._ttl_seconds = ttl_seconds
        self._now = 0  # counts what was heard
        self._cleared = 0
        self._heard: LRUCache[str, int] = LRUCache(MOST_HEARD)

    def get(self, key: str) -> Entry | None:
        """Return the entry, if it is here and fresh."""
        entry = self.copy(key)
        if entry is None or entry.validated_at + self._ttl_seconds <= time.monotonic():
            return None
        return entry

    def copy(self, key: str) -> Entry | None:
        """Return the entry, fresh or not."""
        try:
            return self._entries[key]
        except KeyError:
            return None

    @property
    def bytes_held(self) -> float:
        """What the entries take, as they are counted."""
        return self._entries.currsize

    def begin(self) -> int:
        """Return the moment at which a read begins, for its `put`."""
        return self._now

    def put(self, entry: Entry, began: int) -> None:
        """Keep an entry, unless a change of one of its tags was heard since `began`."""
        if began != self._now and self._was_heard(entry, began):
            return
        entry.validated_at = time.monotonic()
        if self.copy(entry.key) is not entry and _size(entry) <= self._entries.maxsize:
            # A copy of the right size: what orjson returns holds 4 kB and more while it is kept.
            entry.value = bytes(memoryview(entry.value))
            self._entries[entry.key] = entry

    def forget(self, key: str) -> None:
        """Forget what Valkey does not call valid any more."""
        self._entries.pop(key, None)

    def drop(self, tags: list[str]) -> None:
        """Forget what carries one of `tags`, and note that they were heard."""
        self._now += 1
        for tag in tags:
            if len(self._heard) == MOST_HEARD and tag not in self._heard:
                self._forget_what_was_heard()
            self._heard[tag] = self._now
            self._entries.drop(tag)

    def clear(self) -> None:
        """Forget everything: changes may have gone unheard."""
        self._now += 1
        self._entries.clear()
        self._forget_what_was_heard()

    def _was_heard(self, entry: Entry, began: int) -> bool:
        return began < self._cleared or any(self._heard.get(tag, 0) > began for tag in entry.tags)

    def _forget_what_was_heard(self) -> None:
        """Refuse every read that is under way instead."""
        self._cleared = self._now
        self._heard.clear()


class _TaggedCache(LRUCache[str, Entry]):
    """A cache that knows which entries carry a tag, whichever way they leave."""

    def __init__(self, max_bytes: int, getsizeof: Callable[[Entry], float]) -> None:
        super().__init__(max_bytes, getsizeof)
        self._by_tag: defaultdict[str, set[str]] = defaultdict(set)

    def __setitem__(self, key: str, entry: Entry) -> None:
        self.pop(key, None)
        super().__setitem__(key, entry)
        for tag in entry.tags:
            self._by_tag[tag].add(key)

    def drop(self, tag: str) -> None:
        for key in list(self._by_tag.get(tag, ())):
            self.pop(key, None)

    def __delitem__(self, key: str) -> None:
        for tag in self[key].tags:
            self._by_tag[tag].discard(key)
            if not self._by_tag[tag]:
                del self._by_tag[tag]
        super().__delitem__(key)

    def clear(self) -> None:
        super().clear()
        self._by_tag.clear()


def _size(entry: Entry) -> int:
    return 2 * len(entry.value) + len(entry.tags) * TAG_BYTES + ENTRY_BYTES
