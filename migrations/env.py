"""Runs the migrations. Instances that start together take turns by an advisory lock."""

import asyncio
import sys
from importlib import import_module
from importlib.util import find_spec
from pkgutil import iter_modules
from typing import Any

from alembic import context
from asyncpg import PostgresError
from sqlalchemy import Connection, pool, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine

from app import features
from app.infra.cache.wiring import cache_config
from app.infra.database.base import Base
from app.infra.database.pgbouncer import pgbouncer_arguments
from app.infra.settings_base.urls import asyncpg_arguments
from app.infra.storage import stored_objects  # noqa: F401 - its table belongs to no feature
from app.settings import load_settings
from coherent_cache import NotFlushed, flush_cache

LOCK = text("SELECT pg_advisory_xact_lock(hashtext('migrations'))")
# A migration may take long and may wait long for the lock, whatever timeouts the role has.
NO_TIMEOUTS = text(
    "SELECT set_config('statement_timeout', '0', true), set_config('lock_timeout', '0', true)"
)


def import_models() -> None:
    """Import `models` of every feature, which adds its tables to `Base.metadata`."""
    for feature in iter_modules(features.__path__, "app.features."):
        if find_spec(f"{feature.name}.models"):
            import_module(f"{feature.name}.models")


def is_ours(name: str | None, kind: str, _parents: object) -> bool:
    """Tell Alembic to leave the tables of pgqueuer alone. They have no models."""
    return not (kind == "table" and name is not None and name.startswith("pgqueuer"))


def migrate(connection: Connection) -> bool:
    """Run the Alembic command in one transaction. Return whether it changed the schema."""
    steps: list[Any] = []
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        include_name=is_ours,
        on_version_apply=lambda **step: steps.append(step),
    )
    with context.begin_transaction():
        connection.execute(NO_TIMEOUTS)
        connection.execute(LOCK)
        context.run_migrations()
    return bool(steps)


async def main() -> None:
    """Migrate, then flush the cache: its entries may have been built from the old schema."""
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
        raise SystemExit(f"Cannot connect to the database in DATABASE_URL. {reason}") from None
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


import_models()
asyncio.run(main())
