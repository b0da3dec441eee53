"""Empties the cache from outside of the service: for changes that nobody invalidates."""

from app.infra.cache.client import open_valkey
from app.infra.cache.release import release
from app.infra.cache.store import CACHE_ERRORS, Store
from app.settings import Settings


class NotFlushed(Exception):
    """Valkey was not reached: entries live until their TTL ends."""


async def flush(settings: Settings) -> int:
    """Remove every entry, in every worker's memory too; return how many keys that were."""
    try:
        valkey = open_valkey(settings.valkey)
        async with valkey:
            return await Store(valkey, settings.cache.namespace, release()).flush()
    except CACHE_ERRORS as error:
        raise NotFlushed(
            f"Valkey was not reached ({type(error).__name__}), so the cache was not emptied: "
            f"what it holds lives for {settings.cache.ttl_seconds:g} s at most. "
            "Check VALKEY_URL."
        ) from error
