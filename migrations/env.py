"""Runs the migrations. Several replicas may start at once: they take turns on an advisory lock."""

import asyncio

from alembic import context
from sqlalchemy import Connection, pool, text
from sqlalchemy.ext.asyncio import create_async_engine

from app.features.auth import models as auth
from app.features.comments import models as comments
from app.features.posts import models as posts
from app.features.users import models as users
from app.infra.database.base import Base
from app.settings import load_settings

MODELS = (auth, comments, posts, users)  # importing them is what fills the metadata
LOCK = text("SELECT pg_advisory_xact_lock(hashtext('migrations'))")


def migrate(connection: Connection) -> None:
    """Run what was asked for, in one transaction."""
    context.configure(connection=connection, target_metadata=Base.metadata)
    with context.begin_transaction():
        connection.execute(LOCK)
        context.run_migrations()


async def main() -> None:
    """Connect, migrate, disconnect."""
    url = load_settings().database.url.get_secret_value()
    engine = create_async_engine(url, poolclass=pool.NullPool)
    async with engine.connect() as connection:
        await connection.run_sync(migrate)
    await engine.dispose()


asyncio.run(main())
