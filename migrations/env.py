"""Runs the migrations. Several replicas may start at once: they take turns on an advisory lock."""

import asyncio
import sys
from typing import Any

from alembic import context
from asyncpg import PostgresError
from sqlalchemy import Connection, pool, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine

from app.features.auth import models as auth
from app.features.comments import models as comments
from app.features.posts import models as posts
from app.features.users import models as users
from app.infra.cache.config import cache_config
from app.infra.database.base import Base
from app.infra.database.pgbouncer import pgbouncer_arguments
from app.infra.settings_base.urls import asyncpg_arguments
from app.settings import load_settings
from coherent_cache import NotFlushed, flush_cache

MODELS = (auth, comments, posts, users)  # importing them is what fills the metadata
LOCK = text("SELECT pg_advisory_xact_lock(hashtext('migrations'))")
# A migration may take long, and wait long for its turn, whatever the role's timeouts are.
PATIENCE = text(
    "SELECT set_config('statement_timeout', '0', true), set_config('lock_timeout', '0', true)"
)


def migrate(connection: Connection) -> bool:
    """Run what was asked for, in one transaction; tell whether the schema was changed."""
    steps: list[Any] = []
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        on_version_apply=lambda **step: steps.append(step),
    )
    with context.begin_transaction():
        connection.execute(PATIENCE)
        connection.execute(LOCK)
        context.run_migrations()
    return bool(steps)


async def main() -> None:
    """Connect, migrate, disconnect; what the cache holds may look different now."""
    settings = load_settings()
    engine = create_async_engine(
        "postgresql+asyncpg://",
        poolclass=pool.NullPool,
        connect_args={
            **asyncpg_arguments(settings.database.url.get_secret_value()),
            **pgbouncer_arguments(settings.database),
        },
    )
    try:
        connection = await engine.connect()
    except (OSError, TimeoutError, DBAPIError, PostgresError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise SystemExit(f"DATABASE_URL leads to no database that lets us in. {reason}") from None
    try:
        is_changed = await connection.run_sync(migrate)
    finally:
        await connection.close()
    await engine.dispose()
    if is_changed and settings.cache.enabled:
        try:
            await flush_cache(cache_config(settings.valkey, settings.cache))
        except NotFlushed as error:
            sys.stderr.write(f"{error}\n")


asyncio.run(main())
