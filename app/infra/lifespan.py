"""Opens everything that a process holds open, and closes it again in the reverse order."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Protocol

from sqlalchemy.exc import SQLAlchemyError

from app.errors import Unavailable
from app.infra.cache.settings import CacheSettings, ValkeySettings
from app.infra.cache.wiring import cache_config
from app.infra.database.driver import fetch
from app.infra.database.engine import open_engine, open_outbox_engine
from app.infra.database.pool import FifoPool
from app.infra.database.replica import Replica, open_replica
from app.infra.database.schema import Schema
from app.infra.database.separate_reads import SeparateReads
from app.infra.database.sessions import Database
from app.infra.database.settings import DatabaseSettings
from app.infra.database.transactions import fetch_in
from app.infra.http_client.client import open_http_client
from app.infra.http_client.settings import HttpClientSettings
from app.infra.mail.mailer import open_mailer
from app.infra.mail.settings import MailSettings
from app.infra.observability.background import in_background
from app.infra.observability.diagnostics import watch_event_loop, watch_tasks
from app.infra.observability.process_metrics import sample
from app.infra.observability.settings import DiagnosticsSettings
from app.infra.observability.tracing import span, traces
from app.infra.rate_limits.wiring import open_rate_limiter
from app.infra.resources import ProcessResources
from app.infra.security.access_tokens import AccessTokens
from app.infra.security.passwords import Passwords
from app.infra.security.settings import AuthSettings
from app.infra.settings_base.section import Sections
from app.infra.storage.opening import open_store
from app.infra.storage.settings import StorageSettings
from app.infra.threads import measure_default_threads
from coherent_cache import Cache, NoCache

Measure = Callable[[], None]


class Measured(Protocol):
    def measure(self) -> None:
        """Set the gauges of this layer."""


@asynccontextmanager
async def open_resources(
    settings: Sections, application_name: str, *measures: Measure, workers: int = 1
) -> AsyncIterator[ProcessResources]:
    """Open everything. On leaving, close it in the reverse order, whatever happened.

    `application_name` is what PostgreSQL lists the connections under. Each of `measures` is called
    once a second and sets gauges. `workers` is how many processes of this instance serve requests.
    """
    database_settings = settings[DatabaseSettings]
    async with AsyncExitStack() as stack:
        cache = _make_cache(settings)
        hooks = () if cache is None else (cache,)
        database = Database(open_engine(database_settings, application_name), *hooks)
        stack.push_async_callback(database.close)
        if cache is not None:
            outbox_engine = open_outbox_engine(database_settings, application_name)
            stack.push_async_callback(outbox_engine.dispose)
            await stack.enter_async_context(
                cache.running(
                    partial(fetch, outbox_engine),
                    (SQLAlchemyError, Unavailable),
                    in_background=in_background,
                )
            )
        replica = None
        if (url := database_settings.replica_url) is not None:
            replica = await stack.enter_async_context(
                open_replica(database_settings, url, database, application_name)
            )
        passwords = Passwords(settings[AuthSettings])
        stack.callback(passwords.close)
        rate_limiter = await stack.enter_async_context(open_rate_limiter(settings, workers))
        http = await stack.enter_async_context(open_http_client(settings[HttpClientSettings]))
        mailer = open_mailer(settings[MailSettings])
        stack.push_async_callback(mailer.close)
        stack.enter_context(watch_tasks())
        diagnostics = settings[DiagnosticsSettings]
        watchdog = stack.enter_context(watch_event_loop(diagnostics.blocked_seconds))
        held: list[Measured] = [
            *(watchdog, rate_limiter, http, passwords),
            *_measured(database, replica, cache),
        ]
        measures += (measure_default_threads, *(one.measure for one in held))
        sampled = partial(sample, *measures)
        await stack.enter_async_context(in_background(sampled, "sampler"))
        yield ProcessResources(
            settings=settings,
            database=database,
            schema=Schema(database),
            replica=replica,
            separate_reads=SeparateReads(database, replica, database_settings.pool_size),
            cache=cache,
            reader=NoCache() if cache is None else cache.reader,
            passwords=passwords,
            access_tokens=AccessTokens(settings[AuthSettings]),
            rate_limiter=rate_limiter,
            http=http,
            mailer=mailer,
            objects=open_store(settings[StorageSettings]),
        )


def _make_cache(settings: Sections) -> Cache | None:
    if not settings[CacheSettings].enabled:
        return None
    pool_size = settings[DatabaseSettings].pool_size
    config = cache_config(settings[ValkeySettings], settings[CacheSettings], pool_size)
    return Cache(config, open_span=span if traces() else None, fetch_in=fetch_in)


def _measured(database: Database, replica: Replica | None, cache: Cache | None) -> list[Measured]:
    """Return what sets gauges, if it exists. The pool of the replica has no gauges."""
    pool = database.engine.pool
    pools = [pool] if isinstance(pool, FifoPool) else []
    return [*pools, *(held for held in (replica, cache) if held is not None)]
