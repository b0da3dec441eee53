"""Adds a tracing span to each operation of the store."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from coherent_cache.entry import Entry
from coherent_cache.failover import ClusterStore
from coherent_cache.outcomes import Lease, Miss
from coherent_cache.store import Store

# Opens a span by name. The span must have the method `set_attribute(name, value)`.
OpenSpan = Callable[[str], AbstractContextManager[Any]]


class TracedStore(Store):
    """A store with tracing. A command that is shared by several callers has a span for each."""

    open_span: OpenSpan

    async def look_up(self, key: str) -> Entry | Miss:
        """Do what `Store.look_up` does, in a span."""
        with self.open_span("cache look-up") as span:
            found = await super().look_up(key)
            span.set_attribute("cache.hit", isinstance(found, Entry))
            return found

    async def is_valid(self, copy: Entry) -> bool:
        """Do what `Store.is_valid` does, in a span."""
        with self.open_span("cache validation") as span:
            valid = await super().is_valid(copy)
            span.set_attribute("cache.hit", valid)
            return valid

    async def fill(self, entry: Entry, lease: Lease) -> bool:
        """Do what `Store.fill` does, in a span."""
        with self.open_span("cache fill") as span:
            stored = await super().fill(entry, lease)
            span.set_attribute("cache.stored", stored)
            return stored

    async def invalidate(self, tags: Sequence[str]) -> None:
        """Do what `Store.invalidate` does, in a span."""
        with self.open_span("cache invalidation"):
            await super().invalidate(tags)


class TracedClusterStore(TracedStore, ClusterStore):
    """A cluster store with tracing."""
