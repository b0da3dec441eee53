"""A two-tier cache over Valkey that does not serve stale answers. See README.md for its use."""

from coherent_cache.assembly import Cache, NoCache, NotFlushed, flush_cache
from coherent_cache.budget import READ_SECONDS, CacheBusy
from coherent_cache.cache_tracing import OpenSpan
from coherent_cache.client import MultiplexedRedis
from coherent_cache.config import CacheConfig, code_digest
from coherent_cache.entry import Entry
from coherent_cache.invalidation import collect_shown_tags, invalidate, shows, tags_to_invalidate
from coherent_cache.outbox import outbox_table
from coherent_cache.reader import Answer, Reader, Source
from coherent_cache.store import CACHE_ERRORS
from coherent_cache.trust import Trust

__all__ = [
    "CACHE_ERRORS",
    "READ_SECONDS",
    "Answer",
    "Cache",
    "CacheBusy",
    "CacheConfig",
    "Entry",
    "MultiplexedRedis",
    "NoCache",
    "NotFlushed",
    "OpenSpan",
    "Reader",
    "Source",
    "Trust",
    "code_digest",
    "collect_shown_tags",
    "flush_cache",
    "invalidate",
    "outbox_table",
    "shows",
    "tags_to_invalidate",
]
