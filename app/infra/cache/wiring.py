"""Configures `coherent_cache` from the settings."""

from pathlib import Path

import coherent_cache
import graceful_gunicorn
from app.infra.cache.settings import CacheSettings, ValkeySettings
from coherent_cache import CacheConfig, code_digest

# A change of this code may change what a cache entry contains. The server encodes its heads.
CODE = (
    Path(__file__).parents[2],
    Path(coherent_cache.__file__).parent,
    Path(graceful_gunicorn.__file__).parent,
)


def cache_config(valkey: ValkeySettings, cache: CacheSettings, pool_size: int = 1) -> CacheConfig:
    """`pool_size` is the number of database connections of this process."""
    return CacheConfig(
        valkey_url=valkey.url.get_secret_value(),
        is_cluster=valkey.cluster,
        max_connections=valkey.max_connections,
        timeout_seconds=valkey.timeout_seconds,
        slow_seconds=valkey.slow_seconds,
        code_version=code_digest(*CODE),
        namespace=cache.namespace,
        ttl_seconds=max(cache.ttl_seconds, cache.missing_ttl_seconds),
        memory_bytes=cache.memory_bytes,
        memory_ttl_seconds=cache.memory_ttl_seconds,
        relay_seconds=cache.relay_seconds,
        concurrent_bypasses=max(1, pool_size // 2),
    )
