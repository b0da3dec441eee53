"""Limits in the Valkey of the tests, under keys that no other test uses."""

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from redis.asyncio import Redis

from app.infra.rate_limits.limiter import RateLimiter
from app.infra.rate_limits.settings import RateLimitSettings
from app.infra.rate_limits.shared import SharedLimits

MakeLimiter = Callable[..., RateLimiter]


@pytest.fixture
def namespace() -> str:
    return uuid4().hex


@pytest.fixture
async def shared() -> AsyncIterator[SharedLimits]:
    limits = SharedLimits(os.environ["TEST_RATE_LIMITS_URL"], 5)
    yield limits
    await limits.close()


@pytest.fixture
async def make_limiter(namespace: str) -> AsyncIterator[MakeLimiter]:
    """Make the limiters of several processes, which share their keys in Valkey.

    `url` is None for a process without Valkey.
    """
    made: list[RateLimiter] = []

    def make(
        url: str | None = os.environ["TEST_RATE_LIMITS_URL"],
        *,
        quotas: str = "",
        workers: int = 1,
        timeout_seconds: float = 5,
    ) -> RateLimiter:
        made.append(
            RateLimiter(
                RateLimitSettings(quotas=quotas),
                SharedLimits(url, timeout_seconds) if url else None,
                namespace=namespace,
                workers=workers,
                hash_key=b"key",
            )
        )
        return made[-1]

    yield make
    for limiter in made:
        await limiter.aclose()


@asynccontextmanager
async def user(*rules: str) -> AsyncIterator[tuple[str, Redis]]:
    """Create a user of Valkey. Yield its URL, and a client that may change it."""
    url, name = urlsplit(os.environ["TEST_RATE_LIMITS_URL"]), f"u{uuid4().hex}"
    async with Redis.from_url(os.environ["TEST_RATE_LIMITS_URL"]) as admin:
        await admin.execute_command("ACL", "SETUSER", name, "on", ">secret", "~*", *rules)
        try:
            yield url._replace(netloc=f"{name}:secret@127.0.0.1:{url.port}").geturl(), admin
        finally:
            await admin.execute_command("ACL", "DELUSER", name)
