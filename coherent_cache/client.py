"""Opens the connection to Valkey. Timeouts keep a broken server from blocking requests."""

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as ConnectionLost

from coherent_cache.cluster import ValkeyCluster, open_cluster
from coherent_cache.config import CacheConfig

Valkey = Redis | ValkeyCluster


def open_valkey(config: CacheConfig) -> Valkey:
    """Create this process's client. It connects at its first command. The caller must close it."""
    return open_cluster(config) if config.is_cluster else open_server(config)


def open_server(config: CacheConfig) -> Redis:
    """Create the client of a single server. The client owns its connection pool.

    A command takes `timeout_seconds` at most. It is retried once if its connection turns out to be
    closed. A command that timed out is not retried, because that would double the wait.
    """
    pool = BlockingConnectionPool.from_url(
        config.valkey_url,
        # With RESP3 notifications, the pool skips its check for unread data, and one command could
        # receive the reply of another.
        protocol=2,
        max_connections=config.max_connections,
        timeout=config.timeout_seconds,
        socket_timeout=config.timeout_seconds,
        socket_connect_timeout=config.timeout_seconds,
        retry=Retry(NoBackoff(), 1, supported_errors=(ConnectionLost,)),
    )
    return Redis.from_pool(pool)
