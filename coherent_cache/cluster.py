"""The cache on a Valkey cluster: the client, the store and the channel.

A failover may lose the latest writes, so it must act like a flush. Valkey acknowledges a write
before its replicas have it. A replica that becomes the owner of the slot may lack an invalidation
that its predecessor acknowledged, and would then serve stale entries. To prevent this, every entry
has one more tag, EVERYTHING. A process that finds a new owner invalidates this tag, and uses no
answer of the new owner before that.
"""

import asyncio
from collections.abc import Awaitable, Iterable, Sequence
from typing import Any

from redis.asyncio.cluster import RedisCluster
from redis.commands.core import AsyncScript
from redis.exceptions import ConnectionError as ConnectionLost
from redis.exceptions import NoScriptError, RedisClusterException, RedisError, SlotNotCoveredError

from coherent_cache.channel import Channel
from coherent_cache.config import CacheConfig
from coherent_cache.entry import Entry
from coherent_cache.store import EVERYTHING, Keys, Store

SPARE_CONNECTIONS = 4  # to each node: for the channel, and for finding the owner of the slot


class ValkeyCluster(RedisCluster):
    """Sends each command to the node that owns its slot, and finds the new owner after a failover.

    An unreachable cluster raises the same error as an unreachable single server.
    """

    def __init__(self, *arguments: Any, command_timeout_seconds: float, **options: Any) -> None:
        max_connections: int = options["max_connections"]
        options["max_connections"] = max_connections + SPARE_CONNECTIONS
        super().__init__(*arguments, **options)
        self._command_timeout_seconds = command_timeout_seconds
        # Commands wait here for a connection. The client itself would raise when none is free.
        self._connection_slots = asyncio.Semaphore(max_connections)

    async def initialize(self, *arguments: Any, **options: Any) -> "ValkeyCluster":
        """Find the nodes and their slots, unless they are already known."""
        try:
            await super().initialize(*arguments, **options)
        except RedisClusterException as error:  # this is not a RedisError
            raise ConnectionLost("No node of the cluster answers for all slots.") from error
        return self

    async def execute_command(self, *arguments: Any, **options: Any) -> Any:
        """Send a command. The time limit includes finding the owner and the retry."""
        async with asyncio.timeout(self._command_timeout_seconds), self._connection_slots:
            return await super().execute_command(*arguments, **options)

    def register_script(self, script: Any) -> Any:
        """Return a callable that runs the script on the node that owns its keys."""
        return _Script(self, script)


class _Script(AsyncScript):
    """Sends the script's source to a node that does not know its digest.

    SCRIPT LOAD is no alternative, because it needs every node of the cluster to be reachable.
    """

    async def __call__(
        self,
        keys: Sequence[Any] | None = None,
        args: Iterable[Any] | None = None,
        client: Any = None,
    ) -> Any:
        runner: Any = client or self.registered_client
        values = (len(keys or ()), *(keys or ()), *(args or ()))
        try:
            return await runner.evalsha(self.sha, *values)
        except NoScriptError:
            return await runner.eval(self.script, *values)


class OwnerChanged(RedisError):
    """The slot has an owner that this process did not know when it sent the command."""


class ClusterStore(Store):
    """One namespace, in one slot of a cluster."""

    def __init__(self, valkey: ValkeyCluster, config: CacheConfig) -> None:
        super().__init__(valkey, config)
        self._cluster = valkey
        self._owner_key = f"{self.prefix}owner"
        self._known_owner = ""
        self._owner_lock = asyncio.Lock()

    async def invalidate(self, tags: Sequence[str]) -> None:
        """Invalidate the tags. Repeat this once if the owner changed in the meantime."""
        try:
            await super().invalidate(tags)
        except OwnerChanged:
            await super().invalidate(tags)

    async def _execute(self, command: Awaitable[Any]) -> Any:
        known = self._known_owner
        answer = await super()._execute(command)
        if not known or self._current_owner() != known:
            await self._handle_new_owner()
            raise OwnerChanged
        return answer

    async def _handle_new_owner(self) -> None:
        """Invalidate every entry at a new owner, unless another process has already done so."""
        async with self._owner_lock:
            owner = self._current_owner()
            if owner == self._known_owner:
                return
            # MGET returns nil for a key of another type, where GET would fail.
            if await super()._execute(self._cluster.mget([self._owner_key])) != [owner.encode()]:
                await super()._execute(self._invalidate_command([EVERYTHING]))
                await super()._execute(self._cluster.set(self._owner_key, owner))
            self._known_owner = owner

    def _current_owner(self) -> str:
        node = self._cluster.get_node_from_key(self.prefix)
        return node.name if node is not None else ""

    def _tag_keys(self, entry: Entry) -> Keys:
        if not entry.tag_keys:
            entry.tag_keys = (*super()._tag_keys(entry), self._tag_key(EVERYTHING))
        return entry.tag_keys


class ClusterChannel(Channel):
    """Listens only at the owner of the slot.

    INVALIDATE publishes at the owner. The other nodes receive its messages only through the owner,
    and may be cut off from it.
    """

    @property
    def is_live(self) -> bool:
        """Whether a pong arrived recently, and from the owner of the slot."""
        return super().is_live and not self._is_on_wrong_node()

    def _is_on_wrong_node(self) -> bool:
        assert isinstance(self._valkey, ValkeyCluster)
        try:
            owner = self._valkey.get_node_from_key(self._name)
        except SlotNotCoveredError:
            return True
        return self._pubsub is None or self._pubsub.get_pubsub_node() != owner
