"""The client of a Valkey cluster, with the same limits that client.py sets for a single server."""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

from redis.asyncio.cluster import RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.commands.core import AsyncScript
from redis.exceptions import ConnectionError as ConnectionLost
from redis.exceptions import NoScriptError, RedisClusterException

from coherent_cache.config import CacheConfig

# One command may need four: the command, the search for the slot's new owner, and the retry.
TIMEOUTS_PER_COMMAND = 4
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


def open_cluster(config: CacheConfig) -> ValkeyCluster:
    """Create this process's client. `valkey_url` may name any reachable node of the cluster."""
    cluster = ValkeyCluster.from_url(
        config.valkey_url,
        protocol=2,
        max_connections=config.max_connections,
        command_timeout_seconds=TIMEOUTS_PER_COMMAND * config.timeout_seconds,
        socket_timeout=config.timeout_seconds,
        socket_connect_timeout=config.timeout_seconds,
        require_full_coverage=False,  # slots that this namespace does not use may have no owner
        retry=Retry(NoBackoff(), 1),
    )
    assert isinstance(cluster, ValkeyCluster)  # `from_url` is annotated with the base class
    return cluster
