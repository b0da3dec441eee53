"""The cache of one process, assembled; and what stands in its place when there is none."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from app.infra.background import in_background
from app.infra.cache.channel import Channel
from app.infra.cache.client import Valkey
from app.infra.cache.cluster import ValkeyCluster
from app.infra.cache.entry import Entry
from app.infra.cache.failover import ClusterChannel, ClusterStore
from app.infra.cache.invalidation import Invalidation
from app.infra.cache.memory import Memory
from app.infra.cache.outbox import open_outbox
from app.infra.cache.read_through import Answer, Load, ReadThrough, Source
from app.infra.cache.relay import Relay
from app.infra.cache.release import release
from app.infra.cache.store import Store
from app.infra.cache.traced import TracedClusterStore, TracedStore
from app.infra.cache.trust import Trust
from app.infra.metrics import CACHE_BREAKER_OPEN, CACHE_MEMORY
from app.infra.tracing import traces
from app.settings import Settings


class Cache:
    """Both tiers, and what keeps them right. `running` is what makes it live."""

    def __init__(self, settings: Settings, valkey: Valkey) -> None:
        memory = Memory(settings.cache.memory_bytes, settings.cache.memory_ttl_seconds)
        self.memory = memory
        self.store = _store(valkey, settings)
        listener = ClusterChannel if isinstance(valkey, ValkeyCluster) else Channel
        self.channel = listener(valkey, self.store.channel, memory)
        self.trust = Trust(memory)
        self.reader = ReadThrough(
            self.store,
            memory,
            self.channel,
            self.trust,
            bypass=max(1, settings.database.pool_size // 2),
            cache_seconds=settings.valkey.timeout_seconds,
        )
        namespace = settings.cache.namespace
        self.invalidation = Invalidation(self.store, memory, self.trust, namespace)
        self._settings = settings

    def measure(self) -> None:
        """Set the gauges of this process."""
        CACHE_MEMORY.set(self.memory.bytes_held)
        CACHE_BREAKER_OPEN.set(self.store.breaker.is_open)
        self.trust.measure()

    async def flush(self) -> None:
        """Forget everything: what was changed behind the service's back, by hand or by a restore.

        It raises what Valkey's client raises.
        """
        await self.store.flush()
        self.memory.clear()

    @asynccontextmanager
    async def running(self, application_name: str) -> AsyncIterator[None]:
        """Hear of changes, relay those that their writers could not invalidate, and keep the trust.

        A memory that is never believed without asking Valkey need not hear of anything.
        """
        settings = self._settings
        async with AsyncExitStack() as stack:
            if settings.cache.memory_ttl_seconds > 0:
                await stack.enter_async_context(in_background(self.channel.run, "cache channel"))
            outbox = await stack.enter_async_context(
                open_outbox(settings.database, settings.cache.namespace, application_name)
            )
            relay = Relay(outbox, self.store, self.invalidation, self.trust, settings.cache)
            await relay.first_turn()
            await stack.enter_async_context(in_background(relay.run, "cache relay"))
            yield


def _store(valkey: Valkey, settings: Settings) -> Store:
    namespace, slow_seconds = settings.cache.namespace, settings.valkey.slow_seconds
    if isinstance(valkey, ValkeyCluster):
        kind = TracedClusterStore if traces() else ClusterStore
        return kind(valkey, namespace, release(), slow_seconds)
    return (TracedStore if traces() else Store)(valkey, namespace, release(), slow_seconds)


class NoCache:
    """CACHE_ENABLED=false: every read loads."""

    def remembered(self, _key: str) -> Entry | None:
        """Return nothing: there is no memory."""
        return None

    def has_copy(self, _key: str) -> bool:
        """Say no."""
        return False

    async def read(self, _key: str, load: Load, *, skip_memory: bool = False) -> Answer:  # noqa: ARG002 - as ReadThrough
        """Load."""
        return Answer(await load(), Source.PAST)
