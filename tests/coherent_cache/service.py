"""A service with a database and a cache, as the package's README describes it."""

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import asyncpg
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)

from coherent_cache import Cache, CacheConfig, Entry, outbox_table
from coherent_cache._tasks import InBackground, Work, in_background
from coherent_cache.outbox import Fetch, Outbox
from coherent_cache.relay import Relay

metadata = sa.MetaData()
rows = outbox_table(metadata)

INSERT = sa.text("""
    INSERT INTO cache_outbox (tags, namespace, created_at)
    VALUES (:tags, :namespace, clock_timestamp() - make_interval(secs => :age_seconds))
""")
AGE = sa.text(
    "UPDATE cache_outbox SET created_at = clock_timestamp() - make_interval(secs => :age_seconds)"
)


class DatabaseAway(Exception):
    """Raised by the outbox of a service when its database cannot be reached."""


DATABASE_ERRORS = (asyncpg.PostgresError, asyncpg.InterfaceError, DatabaseAway)


class Service:
    """One process of the service. `relay` belongs to it: a test runs each turn."""

    def __init__(
        self, cache: Cache, config: CacheConfig, engine: AsyncEngine, fetch: Fetch
    ) -> None:
        self.cache, self._config = cache, config
        self._sessions = async_sessionmaker(engine)
        self.outbox = Outbox(fetch, config.namespace)
        self.relay = self.relay_of(self.outbox)

    def relay_of(self, outbox: Outbox) -> Relay:
        cache = self.cache
        return Relay(
            outbox, cache.store, cache.invalidation, cache.trust, self._config, DATABASE_ERRORS
        )

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncSession]:
        """Commit and invalidate, or roll back."""
        async with self._sessions() as session:
            yield session
            await self.cache.before_commit(session)
            await session.commit()
            await self.cache.after_commit(session)

    async def remember(self, *tags: str, key: str = "key") -> None:
        """Store an entry with these tags, in both tiers."""

        async def load() -> Entry:
            return Entry(key, tags, b"value")

        await self.cache.reader.read(key, load, skip_memory=True)
        assert self.cache.memory.get(key) is not None
        assert await self.is_valid(key)

    async def is_valid(self, key: str = "key") -> bool:
        return isinstance(await self.cache.store.look_up(key), Entry)

    async def leave_behind(
        self, *tags: str | None, age_seconds: float = 30, namespace: str = ""
    ) -> None:
        """Insert the row of a writer that crashed between its commit and its invalidation."""
        values = {
            "tags": list(tags),
            "namespace": namespace or self._config.namespace,
            "age_seconds": age_seconds,
        }
        async with self._sessions.begin() as session:
            await session.execute(INSERT, values)

    async def set_age(self, seconds: float) -> None:
        """Give every row this age. A row of a negative age comes from the future."""
        async with self._sessions.begin() as session:
            await session.execute(AGE, {"age_seconds": seconds})

    async def waiting(self) -> list[Sequence[str | None]]:
        """Return the tags of each row, the oldest first."""
        async with self._sessions() as session:
            return list(await session.scalars(sa.select(rows.c.tags).order_by(rows.c.id)))

    async def delete_rows(self) -> None:
        async with self._sessions.begin() as session:
            await session.execute(sa.delete(rows))


@asynccontextmanager
async def open_service(
    config: CacheConfig, url: str, *, relay_runs: bool = False
) -> AsyncIterator[Service]:
    """Start a process of the service."""
    engine = create_async_engine(url)
    dsn = url.replace("+asyncpg", "")
    cache = Cache(config)
    run: InBackground = in_background if relay_runs else _in_background_without_relay
    try:
        async with (
            asyncpg.create_pool(dsn, min_size=0, max_size=1) as outbox_pool,
            cache.running(outbox_pool.fetch, DATABASE_ERRORS, in_background=run),
        ):
            yield Service(cache, config, engine, outbox_pool.fetch)
    finally:
        await engine.dispose()


@asynccontextmanager
async def _in_background_without_relay(work: Work, name: str) -> AsyncIterator[None]:
    if name == "cache relay":
        yield
    else:
        async with in_background(work, name):
            yield


async def create_database(name: str) -> str:
    """Create an empty database, and return its URL for SQLAlchemy."""
    base, _, _ = os.environ["TEST_DATABASE_URL"].rpartition("/")
    connection = await asyncpg.connect(f"{base}/postgres")
    await connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
    await connection.execute(f"CREATE DATABASE {name}")
    await connection.close()
    return f"{base}/{name}".replace("postgresql://", "postgresql+asyncpg://")
