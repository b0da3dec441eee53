"""Opens the connection to Valkey. Timeouts keep a broken server from blocking requests."""

from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as ConnectionLost

from coherent_cache.cluster import ValkeyCluster
from coherent_cache.config import CacheConfig

# One command may need four: the command, the search for the slot's new owner, and the retry.
TIMEOUTS_PER_CLUSTER_COMMAND = 4


def open_valkey(config: CacheConfig) -> Redis | ValkeyCluster:
    """Create this process's client. It connects at its first command. The caller must close it."""
    return open_cluster(config) if config.is_cluster else open_server(config)


def open_server(config: CacheConfig) -> Redis:
    """Create the client of a single server. The client owns its connection pool.

    A command takes `timeout_seconds` at most. It is retried once if its connection turns out to be
    closed. A command that timed out is not retried, because that would double the wait.
    """
    pool = BlockingConnectionPool.from_url(
        config.valkey_url,
        **_limits(config),
        timeout=config.timeout_seconds,
        retry=Retry(NoBackoff(), 1, supported_errors=(ConnectionLost,)),
    )
    return Redis.from_pool(pool)


def open_cluster(config: CacheConfig) -> ValkeyCluster:
    """Create the client of a cluster. `valkey_url` may name any reachable node."""
    cluster = ValkeyCluster.from_url(
        config.valkey_url,
        **_limits(config),
        command_timeout_seconds=TIMEOUTS_PER_CLUSTER_COMMAND * config.timeout_seconds,
        require_full_coverage=False,  # slots that this namespace does not use may have no owner
        retry=Retry(NoBackoff(), 1),
    )
    assert isinstance(cluster, ValkeyCluster)  # `from_url` is annotated with the base class
    return cluster


def _limits(config: CacheConfig) -> dict[str, Any]:
    return {
        "max_connections": config.max_connections,
        "socket_timeout": config.timeout_seconds,
        "socket_connect_timeout": config.timeout_seconds,
        # With RESP3 notifications, the pool skips its check for unread data, and one command could
        # receive the reply of another.
        "protocol": 2,
    }
