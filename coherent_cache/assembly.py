"""Assembles the cache of one process. `NoCache` takes its place when caching is switched off."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace

from sqlalchemy.ext.asyncio import AsyncSession

from coherent_cache._tasks import InBackground, in_background
from coherent_cache.cache_metrics import BREAKER_OPEN, MEMORY_BYTES
from coherent_cache.cache_tracing import OpenSpan, trace
from coherent_cache.channel import Channel, OnInvalidated
from coherent_cache.client import open_valkey
from coherent_cache.cluster import ClusterChannel, ClusterStore, ValkeyCluster
from coherent_cache.config import CacheConfig
from coherent_cache.entry import Entry
from coherent_cache.invalidation import Invalidation
from coherent_cache.memory import Memory
from coherent_cache.outbox import Fetch, FetchIn, Outbox, fetch_in
from coherent_cache.reader import Answer, Load, Reader, Source
from coherent_cache.relay import Relay
from coherent_cache.store import CACHE_ERRORS, Store
from coherent_cache.trust import Trust

FIRST_POLL_SECONDS = 1.0
FLUSH_TIMEOUT_SECONDS = 5.0  # no client waits for a flush, and a machine may be busy


class Cache:
    """Both cache tiers of one process, and the parts that keep them coherent.

    Reads use the cache only inside the `running` block. Call `before_commit` and `after_commit`
    around the commit of every transaction that changes cached data. If `open_span` is given, every
    look-up, validation, fill and invalidation at Valkey is traced. `fetch_in` writes the outbox:
    `fetch_in(session, sql, *values)` runs a statement in the transaction of a session and returns
    its rows. By default, SQLAlchemy sends it.
    """

    def __init__(
        self,
        config: CacheConfig,
        *,
        open_span: OpenSpan | None = None,
        fetch_in: FetchIn = fetch_in,
    ) -> None:
        self._config = config
        self._valkey = valkey = open_valkey(config)
        self.memory = Memory(config.memory_bytes, config.memory_ttl_seconds)
        if isinstance(valkey, ValkeyCluster):
            self.store: Store = ClusterStore(valkey, config)
            self.channel: Channel = ClusterChannel(valkey, self.store.channel, self.memory)
        else:
            self.store = Store(valkey, config)
            self.channel = Channel(valkey, self.store.channel, self.memory)
        if open_span is not None:
            trace(self.store, open_span)
        self.trust = Trust(self.memory)
        self.reader = Reader(self.store, self.memory, self.channel, self.trust, config)
        self.invalidation = Invalidation(
            self.store, self.memory, self.trust, config.namespace, fetch_in
        )

    async def before_commit(self, session: AsyncSession) -> None:
        """Write the tags to invalidate into the outbox, in the same transaction."""
        await self.invalidation.before_commit(session)

    async def after_commit(self, session: AsyncSession) -> None:
        """Invalidate the tags of the committed transaction. Await this before the response starts.

        If Valkey is unreachable or refuses the invalidation, no error is raised: the relay repeats
        the invalidation.
        """
        await self.invalidation.after_commit(session)

    def on_invalidated(self, callback: OnInvalidated) -> None:
        """Call `callback` with the tags that any process, also this one, invalidates from now on.

        It is called with None if messages may have been lost. It runs on the event loop, and must
        neither block nor raise. While `hears_invalidations` is false, it may not be called at all.
        """
        self.channel.callbacks.append(callback)

    @property
    def hears_invalidations(self) -> bool:
        """Whether the messages of all processes arrive, as far as this process can know."""
        return self.channel.is_live and self.trust.holds

    async def ping(self) -> None:
        """Send PING to Valkey. Raises one of CACHE_ERRORS if Valkey does not answer."""
        await self._valkey.ping()

    def measure(self) -> None:
        """Update this process's gauges. Call this about once a second."""
        MEMORY_BYTES.set(self.memory.bytes_held)
        BREAKER_OPEN.set(self.store.breaker.is_open)
        self.trust.measure()

    async def flush(self) -> None:
        """Remove every entry, for example after rows were changed by hand or restored.

        Raises one of CACHE_ERRORS if Valkey cannot be reached.
        """
        await self.store.flush()
        self.memory.clear()

    @asynccontextmanager
    async def running(
        self,
        fetch: Fetch,
        database_errors: tuple[type[Exception], ...],
        *,
        in_background: InBackground = in_background,
    ) -> AsyncIterator[None]:
        """Run the channel and the relay, and close the connection to Valkey at the end.

        `fetch(sql, *values)` runs a statement on the primary outside a transaction, and returns its
        rows, as `fetch` of an asyncpg pool does. It needs a connection of its own, and should limit
        each statement to half a second. `database_errors` are the errors that it raises when the
        database fails, besides OSError.
        """
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._valkey.aclose)
            await stack.enter_async_context(in_background(self.channel.run, "cache channel"))
            outbox = Outbox(fetch, self._config.namespace)
            relay = Relay(
                outbox, self.store, self.invalidation, self.trust, self._config, database_errors
            )
            # Poll once, so that the first request can use the cache. `run` repeats what fails here.
            with suppress(Exception):
                async with asyncio.timeout(FIRST_POLL_SECONDS):
                    await relay.run_once()
            await stack.enter_async_context(in_background(relay.run, "cache relay"))
            yield


class NoCache:
    """Replaces `Cache.reader` when caching is switched off. Every read calls `load`."""

    def get_from_memory(self, _key: str) -> Entry | None:
        return None

    def get_copy(self, _key: str) -> Entry | None:
        return None

    async def read(self, _key: str, load: Load, *, skip_memory: bool = False) -> Answer:  # noqa: ARG002 - the signature of Reader.read
        return Answer(await load(), Source.BYPASS)


class NotFlushed(Exception):
    """Valkey could not be reached. Entries stay in the cache until their TTL ends."""


async def flush_cache(config: CacheConfig) -> int:
    """Empty the cache from outside of the service, after changes that did not invalidate anything.

    Returns the number of keys that were removed from Valkey.
    """
    config = replace(config, timeout_seconds=max(config.timeout_seconds, FLUSH_TIMEOUT_SECONDS))
    try:
        async with open_valkey(config) as valkey:
            return await Store(valkey, config).flush()
    except CACHE_ERRORS as error:
        raise NotFlushed(
            f"Valkey was not reached ({type(error).__name__}), so the cache was not emptied. "
            f"Its entries expire within {config.ttl_seconds:g} s at most. Check VALKEY_URL."
        ) from error
