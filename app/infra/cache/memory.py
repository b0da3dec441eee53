"""The tier in process: bounded in bytes and in time, and emptied by what the channel says.

Everything here runs in the event loop's thread, and nothing waits.
"""

from collections import defaultdict

from cachetools import LRUCache, TTLCache

from app.infra.cache.entry import Entry

MOST_HEARD = 10_000
# What an entry takes beside its value, which may be there twice: as it came, and as its view.
ENTRY_BYTES, TAG_BYTES = 1_500, 500


class Memory:
    """Entries for `ttl_seconds` at most. `put` refuses what may have changed since it was read."""

    def __init__(self, max_bytes: int, ttl_seconds: float) -> None:
        self._entries = _TaggedCache(max_bytes, ttl_seconds)
        self._now = 0  # counts what was heard
        self._cleared = 0
        self._heard: LRUCache[str, int] = LRUCache(MOST_HEARD)

    def get(self, key: str) -> Entry | None:
        """Return the entry, if it is here."""
        return self._entries.get(key)

    def begin(self) -> int:
        """Return the moment at which a read begins, for its `put`."""
        return self._now

    def put(self, entry: Entry, began: int) -> None:
        """Keep an entry, unless a change of one of its tags was heard since `began`."""
        if began < self._cleared or any(self._heard.get(tag, 0) > began for tag in entry.tags):
            return
        if _size(entry) <= self._entries.maxsize:
            self._entries[entry.key] = entry

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

    def _forget_what_was_heard(self) -> None:
        """Refuse every read that is under way instead."""
        self._cleared = self._now
        self._heard.clear()


class _TaggedCache(TTLCache[str, Entry]):
    """A cache that knows which entries carry a tag, whichever way they leave."""

    def __init__(self, max_bytes: int, ttl_seconds: float) -> None:
        super().__init__(max_bytes, ttl_seconds, getsizeof=_size)
        self._by_tag: defaultdict[str, set[str]] = defaultdict(set)

    def __setitem__(self, key: str, entry: Entry) -> None:
        with self.timer:  # the time stands still: nothing expires between these two
            self.pop(key, None)
            super().__setitem__(key, entry)
        for tag in entry.tags:
            self._by_tag[tag].add(key)

    def drop(self, tag: str) -> None:
        for key in list(self._by_tag.get(tag, ())):
            self.pop(key, None)

    def expire(self, time: float | None = None) -> list[tuple[str, Entry]]:
        expired = super().expire(time)
        for key, entry in expired:
            self._forget(key, entry)
        return expired

    def __delitem__(self, key: str) -> None:
        self._forget(key, self[key])
        super().__delitem__(key)

    def clear(self) -> None:
        super().clear()
        self._by_tag.clear()

    def _forget(self, key: str, entry: Entry) -> None:
        for tag in entry.tags:
            self._by_tag[tag].discard(key)
            if not self._by_tag[tag]:
                del self._by_tag[tag]


def _size(entry: Entry) -> int:
    return 2 * len(entry.value) + len(entry.tags) * TAG_BYTES + ENTRY_BYTES
