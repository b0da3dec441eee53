"""Opens the rate limiter with the settings."""

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

from app.infra.cache.settings import CacheSettings, ValkeySettings
from app.infra.rate_limits.limiter import RateLimiter
from app.infra.rate_limits.settings import RateLimitSettings
from app.infra.rate_limits.shared import SharedLimits
from app.infra.security.settings import AuthSettings
from app.infra.settings_base.section import Sections


@asynccontextmanager
async def open_rate_limiter(settings: Sections, workers: int) -> AsyncIterator[RateLimiter]:
    """`workers` is how many processes of this instance serve requests."""
    limits = settings[RateLimitSettings]
    url = _url(settings)
    limiter = RateLimiter(
        limits,
        SharedLimits(url, limits.timeout_seconds) if url else None,
        namespace=settings[CacheSettings].namespace,
        workers=workers,
        hash_key=settings[AuthSettings].secret.get_secret_value().encode(),
    )
    async with aclosing(limiter):
        yield limiter


def _url(settings: Sections) -> str | None:
    """Return RATE_LIMITS_URL, or else the Valkey of the cache if it can hold the limits too.

    It cannot if it is a cluster, where the keys of one request may be on different nodes.
    """
    if (url := settings[RateLimitSettings].url) is not None:
        return url.get_secret_value()
    valkey = settings[ValkeySettings]
    is_usable = settings[CacheSettings].enabled and not valkey.cluster
    return valkey.url.get_secret_value() if is_usable else None
