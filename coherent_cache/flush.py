"""Empties the cache from outside of the service, after changes that did not invalidate anything."""

from coherent_cache.client import open_valkey
from coherent_cache.config import CacheConfig
from coherent_cache.store import CACHE_ERRORS, Store


class NotFlushed(Exception):
    """Valkey could not be reached. Entries stay in the cache until their TTL ends."""


async def flush_cache(config: CacheConfig) -> int:
    """Remove every entry from Valkey and from the memory of every worker.

    Returns the number of keys that were removed from Valkey.
    """
    try:
        valkey = open_valkey(config)
        async with valkey:
            return await Store(valkey, config.namespace, config.code_version).flush()
    except CACHE_ERRORS as error:
        raise NotFlushed(
            f"Valkey was not reached ({type(error).__name__}), so the cache was not emptied. "
            f"Its entries expire within {config.ttl_seconds:g} s at most. Check VALKEY_URL."
        ) from error
