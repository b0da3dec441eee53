"""The client of a Valkey cluster, with the limits that `client.py` sets for a single server."""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

from redis.asyncio.cluster import RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.commands.core import AsyncScript
from redis.exceptions import ConnectionError as ConnectionLost
from redis.exceptions import NoScriptError, RedisClusterException

from app.sections import ValkeySettings

# The command, the search for the slot's new owner, the command again.
TIMEOUTS_A_COMMAND = 4
SPARE_CONNECTIONS = 4  # to each node: the channel's, and those that look for the owner


class ValkeyCluster(RedisCluster):
    """Sends each command to the node that owns its slot, and finds the owner after a failover.

    A node of it that cannot be reached is the same error as a single server that cannot.
    """

    def __init__(self, *arguments: Any, patience_seconds: float, **options: Any) -> None:
        most: int = options["max_connections"]
        super().__init__(*arguments, **{**options, "max_connections": most + SPARE_CONNECTIONS})
        self._patience_seconds = patience_seconds
        self._gate = asyncio.Semaphore(most)  # beyond it the client itself would raise

    async def initialize(self, *arguments: Any, **options: Any) -> "ValkeyCluster":
        """Find the nodes and their slots, unless they are known."""
        try:
            await super().initialize(*arguments, **options)
        except RedisClusterException as error:  # which is none of the client's own errors
            raise ConnectionLost("No node of the cluster answers for all slots.") from error
        return self

    async def execute_command(self, *arguments: Any, **options: Any) -> Any:
        """Send a command, and wait so long for all that it takes."""
        async with asyncio.timeout(self._patience_seconds), self._gate:
            return await super().execute_command(*arguments, **options)

    def register_script(self, script: Any) -> Any:
        """Return what runs a script on whichever node owns its keys."""
        return _Script(self, script)


class _Script(AsyncScript):
    """Sent whole to a node that does not know it: SCRIPT LOAD needs every node of the cluster."""

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


def open_cluster(settings: ValkeySettings) -> ValkeyCluster:
    """Build the client of this process; VALKEY_URL is of any node that is reached."""
    cluster = ValkeyCluster.from_url(
        settings.url.get_secret_value(),
        protocol=2,
        max_connections=settings.max_connections,
        patience_seconds=TIMEOUTS_A_COMMAND * settings.timeout_seconds,
        socket_timeout=settings.timeout_seconds,
        socket_connect_timeout=settings.timeout_seconds,
        require_full_coverage=False,  # the slot of another namespace may have no owner
        retry=Retry(NoBackoff(), 1),
    )
    assert isinstance(cluster, ValkeyCluster)  # its type is that of the base class
    return cluster
