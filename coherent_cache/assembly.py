"""Assembles the cache of one process. `NoCache` takes its place when caching is switched off."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from coherent_cache._tasks import InBackground, in_background
from coherent_cache.channel import Channel
from coherent_cache.client import open_valkey
from coherent_cache.cluster import ValkeyCluster
from coherent_cache.config import CacheConfig
from coherent_cache.entry import Entry
from coherent_cache.failover import ClusterChannel, ClusterStore
from coherent_cache.invalidation import Invalidation
from coherent_cache.memory import Memory
from coherent_cache.metrics import BREAKER_OPEN, MEMORY_BYTES
from coherent_cache.outbox import Outbox
from coherent_cache.reader import Answer, Load, Reader, Source
from coherent_cache.relay import Relay
from coherent_cache.store import Store
from coherent_cache.traced import OpenSpan, TracedClusterStore, TracedStore
from coherent_cache.trust import Trust


class Cache:
    """Both cache tiers of one process, and the parts that keep them coherent.

    Reads use the cache only inside the `running` block. Call `before_commit` and `after_commit`
    around the commit of every transaction that changes cached data. If `open_span` is given, every
    look-up, validation, fill and invalidation at Valkey is traced.
    """

    def __init__(self, config: CacheConfig, *, open_span: OpenSpan | None = None) -> None:
        self._config = config
        self._valkey = open_valkey(config)
        self.memory = Memory(config.memory_bytes, config.memory_ttl_seconds)
        self.store = self._build_store(open_span)
        listener = ClusterChannel if isinstance(self._valkey, ValkeyCluster) else Channel
        self.channel = listener(self._valkey, self.store.channel, self.memory)
        self.trust = Trust(self.memory)
        self.reader = Reader(
            self.store,
            self.memory,
            self.channel,
            self.trust,
            concurrent_bypasses=config.concurrent_bypasses,
            cache_seconds=config.timeout_seconds,
        )
        self.invalidation = Invalidation(self.store, self.memory, self.trust, config.namespace)

    async def before_commit(self, session: AsyncSession) -> None:
        """Write the tags to invalidate into the outbox, in the same transaction."""
        await self.invalidation.before_commit(session)

    async def after_commit(self, session: AsyncSession) -> None:
        """Invalidate the tags of the committed transaction. Await this before the response starts.

        If Valkey is unreachable or refuses the invalidation, no error is raised: the relay repeats
        the invalidation.
        """
        await self.invalidation.after_commit(session)

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
        outbox_engine: AsyncEngine,
        *,
        unavailable: tuple[type[Exception], ...] = (),
        in_background: InBackground = in_background,
    ) -> AsyncIterator[None]:
        """Run the channel and the relay, and close the connection to Valkey at the end.

        `outbox_engine` needs a pool of its own with one connection, and should limit each statement
        to half a second. `unavailable` lists the errors, besides SQLAlchemy's, that this engine
        raises when the database cannot be reached.
        """
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._valkey.aclose)
            if self._config.memory_ttl_seconds > 0:
                await stack.enter_async_context(in_background(self.channel.run, "cache channel"))
            relay = Relay(
                Outbox(outbox_engine, self._config.namespace),
                self.store,
                self.invalidation,
                self.trust,
                self._config,
                unavailable,
            )
            await relay.first_run()
            await stack.enter_async_context(in_background(relay.run, "cache relay"))
            yield

    def _build_store(self, open_span: OpenSpan | None) -> Store:
        config, valkey = self._config, self._valkey
        arguments = config.namespace, config.code_version, config.slow_seconds
        if isinstance(valkey, ValkeyCluster):
            kind = ClusterStore if open_span is None else TracedClusterStore
            store: Store = kind(valkey, *arguments)
        else:
            store = (Store if open_span is None else TracedStore)(valkey, *arguments)
        if isinstance(store, TracedStore) and open_span is not None:
            store.open_span = open_span
        return store


class NoCache:
    """Replaces `Cache.reader` when caching is switched off. Every read calls `load`."""

    def get_from_memory(self, _key: str) -> Entry | None:
        """Return None: nothing is kept in memory."""
        return None

    def has_copy(self, _key: str) -> bool:
        """Return False: nothing is kept in memory."""
        return False

    async def read(self, _key: str, load: Load, *, skip_memory: bool = False) -> Answer:  # noqa: ARG002 - the signature of Reader.read
        """Call `load` and return its entry."""
        return Answer(await load(), Source.BYPASS)
