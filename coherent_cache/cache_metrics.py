"""The Prometheus metrics of the cache, in the default registry."""

from prometheus_client import Counter, Gauge

FILLS_REFUSED = Counter(
    "cache_fills_refused", "Loads that were not stored, for example after a concurrent change."
)
BREAKER_OPEN = Gauge(
    "cache_breaker_open", "Workers that bypass Valkey.", multiprocess_mode="livesum"
)
INVALIDATIONS = Counter(
    "cache_invalidations", "Changes, by whether their writer invalidated them.", ("result",)
)
RELAYED = Counter("cache_invalidations_relayed", "Changes that a relay invalidated.")
DISTRUSTED = Gauge(
    "cache_distrusted",
    "Workers that do not trust the cache and read from the database.",
    multiprocess_mode="livesum",
)
OUTBOX_OLDEST = Gauge(
    "cache_outbox_oldest_seconds",
    "Age of the oldest change that was not yet invalidated at the last poll of the outbox.",
    multiprocess_mode="livemax",
)
MEMORY_BYTES = Gauge(
    "cache_memory_bytes",
    "Estimated size of the entries in process memory.",
    multiprocess_mode="livesum",
)
