"""Relays beside the application's own, whose turns are the test's."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from app.errors import Unavailable
from app.infra.cache.config import cache_config
from app.infra.database.engine import open_outbox_engine
from app.infra.database.settings import DatabaseSettings
from app.settings import Settings
from coherent_cache import Cache
from coherent_cache.outbox import Outbox
from coherent_cache.relay import Relay


@asynccontextmanager
async def open_outbox(
    settings: DatabaseSettings, namespace: str, application_name: str
) -> AsyncIterator[Outbox]:
    """Open the outbox as the application does."""
    engine = open_outbox_engine(settings, application_name)
    try:
        yield Outbox(engine, namespace)
    finally:
        await engine.dispose()


def relay_of(cache: Cache, outbox: Outbox, settings: Settings) -> Relay:
    """Build a relay for `cache`, which does not run."""
    return Relay(
        outbox,
        cache.store,
        cache.invalidation,
        cache.trust,
        cache_config(settings.valkey, settings.cache),
        (Unavailable,),
    )
