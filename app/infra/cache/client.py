"""The connection to Valkey, with limits that keep a broken one from holding anybody up."""

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as ConnectionLost

from app.infra.cache.cluster import ValkeyCluster, open_cluster
from app.sections import ValkeySettings

Valkey = Redis | ValkeyCluster


def open_valkey(settings: ValkeySettings) -> Valkey:
    """Build the client of this process; it connects at its first command, and is to be closed."""
    return open_cluster(settings) if settings.cluster else open_server(settings)


def open_server(settings: ValkeySettings) -> Redis:
    """Build the client of a single server, which owns its pool.

    A command takes `timeout_seconds` at most, and is tried once more on a connection that died; one
    without an answer is not, since it would take as long again.
    """
    pool = BlockingConnectionPool.from_url(
        settings.url.get_secret_value(),
        # RESP3 notifications make the pool skip its check for unread data, which crosses replies.
        protocol=2,
        max_connections=settings.max_connections,
        timeout=settings.timeout_seconds,
        socket_timeout=settings.timeout_seconds,
        socket_connect_timeout=settings.timeout_seconds,
        retry=Retry(NoBackoff(), 1, supported_errors=(ConnectionLost,)),
    )
    return Redis.from_pool(pool)
