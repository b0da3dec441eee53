"""Store and channel on a cluster, whose replicas may take over without the last writes.

A failover is a flush. Valkey acknowledges before its replicas have a write, so a new owner may not
know of an invalidation that its predecessor has acknowledged, and would answer with what is stale.
Every entry therefore has one more tag, EVERYTHING. Whoever finds another owner than before drops
that, and believes no answer until it is done.
"""

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Any

from redis.exceptions import RedisError, SlotNotCoveredError

from app.infra.cache.breaker import NEVER
from app.infra.cache.channel import Channel
from app.infra.cache.cluster import ValkeyCluster
from app.infra.cache.entry import Entry
from app.infra.cache.store import EVERYTHING, Names, Store


class OwnerChanged(RedisError):
    """The answer came from another node than was asked, or from one that is not known yet."""


class ClusterStore(Store):
    """One namespace, in one slot of a cluster."""

    def __init__(
        self, valkey: ValkeyCluster, namespace: str, release: str, slow_seconds: float = NEVER
    ) -> None:
        super().__init__(valkey, namespace, release, slow_seconds)
        self._cluster = valkey
        self._marker = f"{self.prefix}owner"
        self._known = ""
        self._settling = asyncio.Lock()

    async def invalidate(self, tags: Sequence[str]) -> None:
        """Invalidate, once more where the owner has changed meanwhile."""
        try:
            await super().invalidate(tags)
        except OwnerChanged:
            await super().invalidate(tags)

    async def _ask(self, command: Awaitable[Any]) -> Any:
        known = self._known
        answer = await super()._ask(command)
        if not known or self._owner() != known:
            await self._settle()
            raise OwnerChanged
        return answer

    async def _settle(self) -> None:
        """Drop what another owner's acknowledgements are missing from, unless others did."""
        async with self._settling:
            owner = self._owner()
            if owner == self._known:
                return
            # MGET, because it answers with nothing for a key of another type, where GET fails.
            if await super()._ask(self._cluster.mget([self._marker])) != [owner.encode()]:
                await super()._ask(self._invalidation([EVERYTHING]))
                await super()._ask(self._cluster.set(self._marker, owner))
            self._known = owner

    def _owner(self) -> str:
        node = self._cluster.get_node_from_key(self.prefix)
        return node.name if node is not None else ""

    def _names(self, entry: Entry) -> Names:
        if not entry.names:
            entry.names = (*super()._names(entry), self._tag(EVERYTHING))
        return entry.names


class ClusterChannel(Channel):
    """Listens at the owner of the slot alone: others are told by it, and may be cut off from it."""

    @property
    def is_live(self) -> bool:
        """Whether the memory can be trusted at this moment."""
        return super().is_live and not self._is_misplaced()

    def _is_misplaced(self) -> bool:
        assert isinstance(self._valkey, ValkeyCluster)
        try:
            owner = self._valkey.get_node_from_key(self._name)
        except SlotNotCoveredError:
            return True
        return self._pubsub is None or self._pubsub.get_pubsub_node() != owner
