"""An application whose cache works on a busy machine, and helpers to look into that cache."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

import httpx2
import pytest
from fastapi import FastAPI

from app.settings import Settings
from coherent_cache import Cache, channel
from tests.application import running
from tests.coherent_cache.worker import eventually

Client = httpx2.AsyncClient

NO_CACHE = {"Cache-Control": "no-cache"}
NO_STORE = {"Cache-Control": "no-store"}
GZIP = {"Accept-Encoding": "gzip"}
LONG = "Long enough to be worth the trouble. " * 50


def patient(settings: Settings, **cache: object) -> Settings:
    """Return the settings with timeouts that do not expire on a busy machine."""
    values = settings.model_dump()
    values["valkey"]["timeout_seconds"] = values["database"]["pool_timeout_seconds"] = 30
    values["valkey"]["slow_seconds"] = 30
    values["cache"] |= {"memory_ttl_seconds": 60, **cache}
    return Settings.model_validate(values)


@asynccontextmanager
async def patient_app(settings: Settings) -> AsyncIterator[FastAPI]:
    """Run an application that keeps trusting its memory, and keeps waiting, on a busy machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(channel, "LIVE_SECONDS", 3_600)
        async with running(patient(settings)) as app:
            yield app


def cache_of(app: FastAPI) -> Cache:
    cache: Cache = app.state.resources.cache
    return cache


async def settled(app: FastAPI) -> None:
    """Wait until the application has received every invalidation that was sent before.

    After a test with much load, its cache may be distrusted for a moment.
    """
    tag, cache = f"settled:{uuid4()}", cache_of(app)
    await eventually(lambda: cache.channel.is_live and cache.trust.holds)
    await cache.store.invalidate([tag])
    await eventually(lambda: tag in cache.memory._invalidated_at)


async def stored(app: FastAPI) -> set[str]:
    """Return the keys of the entries in Valkey, and of the leases."""
    store = cache_of(app).store
    prefix = store._entry_prefix
    return {
        key.decode().removeprefix(prefix)
        async for key in store._valkey.scan_iter(f"{prefix}*", count=1_000)
    }


async def source(client: Client, url: str, headers: dict[str, str] | None = None) -> str | None:
    """Return the header X-Cache of an answer."""
    return (await client.get(url, headers=headers)).headers.get("x-cache")
