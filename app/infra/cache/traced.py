"""The store of the cache where there are traces: a span for each question it asks for a request."""

from collections.abc import Sequence

from app.infra.cache.entry import Entry
from app.infra.cache.failover import ClusterStore
from app.infra.cache.store import Lease, Miss, Store
from app.infra.tracing import span


class TracedStore(Store):
    """What many ask in one command is a span of each of them."""

    async def look_up(self, key: str) -> Entry | Miss:
        """Look up, as `Store` does."""
        with span("cache look-up") as made:
            found = await super().look_up(key)
            made.set_attribute("cache.hit", isinstance(found, Entry))
            return found

    async def is_valid(self, copy: Entry) -> bool:
        """Compare, as `Store` does."""
        with span("cache validation") as made:
            valid = await super().is_valid(copy)
            made.set_attribute("cache.hit", valid)
            return valid

    async def fill(self, entry: Entry, lease: Lease) -> bool:
        """Fill, as `Store` does."""
        with span("cache fill") as made:
            stored = await super().fill(entry, lease)
            made.set_attribute("cache.stored", stored)
            return stored

    async def invalidate(self, tags: Sequence[str]) -> None:
        """Invalidate, as `Store` does."""
        with span("cache invalidation"):
            await super().invalidate(tags)


class TracedClusterStore(TracedStore, ClusterStore):
    """The same on a cluster."""
