"""Opens the connection to Valkey. Timeouts keep a broken server from blocking requests."""

import asyncio
from inspect import isawaitable
from typing import Any

from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as ConnectionLost

from coherent_cache._tasks import detached
from coherent_cache.cluster import ValkeyCluster
from coherent_cache.config import CacheConfig
from coherent_cache.connection import Connection, open_connection

# One command may need four: the command, the search for the slot's new owner, and the retry.
TIMEOUTS_PER_CLUSTER_COMMAND = 4


class MultiplexedRedis(Redis):
    """A client of redis-py that sends the commands of all tasks over one connection.

    It connects at its first command. Only `pubsub` and `pipeline` take connections from the pool of
    redis-py. A command takes `timeout_seconds` at most, and twice as long if it has to connect. It
    is sent once more if its connection turns out to be closed, so it must be safe to repeat. A
    command that timed out is not repeated, because that would double the wait.

    Commands that block, such as BLPOP, and commands that change the connection, such as SELECT,
    would affect all tasks. After `aclose`, a command raises `ConnectionError`.
    """

    def __init__(self, url: str, timeout_seconds: float) -> None:
        pool = ConnectionPool.from_url(
            url,
            socket_timeout=timeout_seconds,
            socket_connect_timeout=timeout_seconds,
            protocol=2,
        )
        super().__init__(connection_pool=pool)
        self.auto_close_connection_pool = True
        self._timeout_seconds = timeout_seconds
        self._current: Connection | None = None
        self._opening: asyncio.Task[Connection] | None = None
        self._is_closed = False

    async def execute_command(self, *arguments: Any, **options: Any) -> Any:
        """Send a command, and return its reply as redis-py would."""
        connection = await self._connection()
        try:
            reply = await connection.execute(arguments)
        except ConnectionLost:
            if connection.is_usable:  # the server has replied with this error
                raise
            reply = await (await self._connection()).execute(arguments)
        convert = self.response_callbacks.get(arguments[0])
        if convert is None:
            return reply
        options.pop("keys", None)  # for caches of redis-py
        converted = convert(reply, **options)
        return await converted if isawaitable(converted) else converted

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        self._is_closed = True
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.wait({self._opening})
        if self._current is not None:
            self._current.close()
        await super().aclose(close_connection_pool)

    async def _connection(self) -> Connection:
        """Return the connection. All that wait for a new one share its success or its failure.

        A new connection that is lost at once is returned too, so that this is not repeated forever.
        """
        if self._current is not None and self._current.is_usable:
            return self._current
        if self._is_closed:
            raise ConnectionLost("This client of Valkey is closed.")
        if self._opening is None or self._opening.done():
            self._opening = detached(self._open())
            self._opening.add_done_callback(_retrieve)
        opening = self._opening
        await asyncio.wait({opening})
        if opening.cancelled():
            raise ConnectionLost("This client of Valkey is closed.")
        return opening.result()

    async def _open(self) -> Connection:
        self._current = await open_connection(self.connection_pool, self._timeout_seconds)
        return self._current


def _retrieve(opening: asyncio.Task[Connection]) -> None:
    """Keep asyncio from logging an error when all that waited for the connection were cancelled."""
    if not opening.cancelled():
        opening.exception()


def open_valkey(config: CacheConfig) -> Redis | ValkeyCluster:
    """Create this process's client. It connects at its first command. The caller must close it."""
    return open_cluster(config) if config.is_cluster else open_server(config)


def open_server(config: CacheConfig) -> MultiplexedRedis:
    """Create the client of a single server."""
    return MultiplexedRedis(config.valkey_url, config.timeout_seconds)


def open_cluster(config: CacheConfig) -> ValkeyCluster:
    """Create the client of a cluster. `valkey_url` may name any reachable node."""
    cluster = ValkeyCluster.from_url(
        config.valkey_url,
        max_connections=config.max_connections,
        socket_timeout=config.timeout_seconds,
        socket_connect_timeout=config.timeout_seconds,
        # With RESP3 notifications, the pool skips its check for unread data, and one command could
        # receive the reply of another.
        protocol=2,
        command_timeout_seconds=TIMEOUTS_PER_CLUSTER_COMMAND * config.timeout_seconds,
        require_full_coverage=False,  # slots that this namespace does not use may have no owner
        retry=Retry(NoBackoff(), 1),
    )
    assert isinstance(cluster, ValkeyCluster)  # `from_url` is annotated with the base class
    return cluster
