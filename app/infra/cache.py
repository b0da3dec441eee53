"""How the settings configure the cache of this service."""

from pathlib import Path

import coherent_cache
from app.settings import Settings
from coherent_cache import CacheConfig, code_digest

# What an entry looks like depends on the code of both.
CODE = (Path(__file__).parents[1], Path(coherent_cache.__file__).parent)


def cache_config(settings: Settings) -> CacheConfig:
    """Return the configuration of `coherent_cache`."""
    valkey, cache = settings.valkey, settings.cache
    return CacheConfig(
        valkey_url=valkey.url.get_secret_value(),
        is_cluster=valkey.cluster,
        max_connections=valkey.max_connections,
        timeout_seconds=valkey.timeout_seconds,
        slow_seconds=valkey.slow_seconds,
        code_version=code_digest(*CODE),
        namespace=cache.namespace,
        ttl_seconds=cache.ttl_seconds,
        missing_ttl_seconds=cache.missing_ttl_seconds,
        memory_bytes=cache.memory_bytes,
        memory_ttl_seconds=cache.memory_ttl_seconds,
        relay_seconds=cache.relay_seconds,
        concurrent_bypasses=max(1, settings.database.pool_size // 2),
    )
