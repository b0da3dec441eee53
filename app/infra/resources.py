"""What a process holds open, opened and closed in one function."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial

from app.errors import Unavailable
from app.infra.background import in_background
from app.infra.cache import cache_config
from app.infra.database.engine import open_engine, open_outbox_engine
from app.infra.database.pool import FairPool
from app.infra.database.replica import Replica, open_replica
from app.infra.database.session import Database
from app.infra.health import Readiness
from app.infra.in_flight import InFlight
from app.infra.leaks import watching_tasks
from app.infra.sampler import Gauge, sample
from app.infra.security import AccessTokens, Passwords
from app.infra.tracing import span, traces
from app.infra.watchdog import watching
from app.settings import Settings
from coherent_cache import Cache, NoCache, Reader


@dataclass(frozen=True, slots=True)
class Resources:
    """Made once a process. Nothing in it has connected to anything before its first use.

    `cache` and `replica` are None where there is none; `reader` reads in either case.
    """

    settings: Settings
    database: Database
    replica: Replica | None
    cache: Cache | None
    reader: Reader | NoCache
    passwords: Passwords
    access_tokens: AccessTokens
    readiness: Readiness
    in_flight: InFlight


@asynccontextmanager
async def open_resources(settings: Settings, application_name: str) -> AsyncIterator[Resources]:
    """Open everything; on leaving, close it in the reverse order, whatever happened."""
    async with AsyncExitStack() as stack:
        cache = None
        if settings.cache.enabled:
            cache = Cache(cache_config(settings), open_span=span if traces() else None)
        hooks = () if cache is None else (cache,)
        database = Database(open_engine(settings.database, application_name), *hooks)
        stack.push_async_callback(database.close)
        if cache is not None:
            outbox_engine = open_outbox_engine(settings.database, application_name)
            stack.push_async_callback(outbox_engine.dispose)
            await stack.enter_async_context(
                cache.running(
                    outbox_engine, unavailable=(Unavailable,), in_background=in_background
                )
            )
        replica = None
        if (url := settings.database.replica_url) is not None:
            replica = await stack.enter_async_context(
                open_replica(settings.database, url, database, application_name)
            )
        passwords = Passwords(settings.auth)
        stack.callback(passwords.close)
        stack.enter_context(watching_tasks(asyncio.get_running_loop()))
        await stack.enter_async_context(watching(settings.guards.blocked_seconds))
        in_flight = InFlight(settings.limits)
        gauges = [in_flight.measure, *_gauges(database, replica, cache)]
        await stack.enter_async_context(in_background(partial(sample, *gauges), "sampler"))
        readiness = Readiness(database, cache)
        stack.callback(readiness.close)
        yield Resources(
            settings=settings,
            database=database,
            replica=replica,
            cache=cache,
            reader=NoCache() if cache is None else cache.reader,
            passwords=passwords,
            access_tokens=AccessTokens(settings.auth),
            readiness=readiness,
            in_flight=in_flight,
        )


def _gauges(database: Database, replica: Replica | None, cache: Cache | None) -> list[Gauge]:
    """Return what is measured once a second; of the pools, the primary's."""
    pool = database.engine.pool
    measured = [pool.measure] if isinstance(pool, FairPool) else []
    return measured + [held.measure for held in (replica, cache) if held is not None]
