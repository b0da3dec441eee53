"""Whether the database has as many connections as all workers of all replicas may take.

Found at start-up, or found at the worst moment: the pools fill when the load is highest, and the
server then refuses whoever comes last, the migration and the administrator included.
"""

import asyncio
from dataclasses import dataclass

import asyncpg
from sqlalchemy import make_url

from app.settings import Settings

APPLICATION_NAME = "app"
CAPACITY = """
    SELECT current_setting('max_connections')::int,
           current_setting('superuser_reserved_connections')::int
               + coalesce(current_setting('reserved_connections', true)::int, 0),
           (SELECT count(*) FROM pg_stat_activity
            WHERE backend_type = 'client backend'
              AND pid <> pg_backend_pid() AND application_name <> $1)
"""


@dataclass(frozen=True, slots=True)
class Capacity:
    """What the service may take, and what the server has to give."""

    workers: int
    pool_size: int
    replicas: int
    max_connections: int
    reserved: int
    held_by_others: int

    @property
    def needed(self) -> int:
        """The connections of all pools when all are full."""
        return self.workers * self.pool_size * self.replicas

    @property
    def free(self) -> int:
        """The connections that are left for this service."""
        return self.max_connections - self.reserved - self.held_by_others

    def __str__(self) -> str:
        return (
            f"{self.workers} workers × {self.pool_size} connections × {self.replicas} replicas = "
            f"{self.needed} connections, and the database has {self.free} for this service: "
            f"{self.max_connections} in all, {self.reserved} reserved, "
            f"{self.held_by_others} held by others. Lower DATABASE_POOL_SIZE or WEB_CONCURRENCY, "
            "or raise the server's max_connections."
        )


def read_capacity(settings: Settings, workers: int) -> Capacity | None:
    """Ask the server, once, before the workers start. None when it cannot be reached."""
    return asyncio.run(_read_capacity(settings, workers))


async def _read_capacity(settings: Settings, workers: int) -> Capacity | None:
    url = make_url(settings.database.url.get_secret_value()).set(drivername="postgresql")
    dsn = url.set(query={"sslmode": url.query["ssl"]} if "ssl" in url.query else {})
    timeout = settings.database.connect_timeout_seconds
    try:
        connection = await asyncpg.connect(
            dsn.render_as_string(hide_password=False), timeout=timeout, command_timeout=timeout
        )
        try:
            [found] = await connection.fetch(CAPACITY, APPLICATION_NAME)
        finally:
            connection.terminate()
    except (OSError, TimeoutError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError):
        return None
    return Capacity(workers, settings.database.pool_size, settings.replicas, *found)
