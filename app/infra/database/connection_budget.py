"""Whether the database has as many connections as all workers of all replicas may take.

Found at start-up, or found at the worst moment: the pools fill when the load is highest, and the
server then refuses whoever comes last, the migration and the administrator included. Behind a
pooler its own configuration bounds them; there, start-up looks for the timeouts of the role.
"""

import asyncio
from dataclasses import dataclass

import asyncpg

from app.infra.database.pgbouncer import UNSET, MissingRoleTimeouts, session_timeouts
from app.infra.database.schema_version import read_revisions
from app.infra.database.settings import DatabaseSettings
from app.infra.settings_base.urls import asyncpg_arguments

APPLICATION_NAME = "app"
# A wrong user or password, and a database that does not exist.
REFUSALS = (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError)
CAPACITY = """
    SELECT current_setting('max_connections')::int,
           current_setting('superuser_reserved_connections')::int
               + coalesce(current_setting('reserved_connections', true)::int, 0),
           (SELECT count(*) FROM pg_stat_activity
            WHERE backend_type = 'client backend'
              AND pid <> pg_backend_pid() AND application_name <> $1)
"""


@dataclass(frozen=True, slots=True)
class ConnectionBudget:
    """What the service may take, and what the server has to give.

    A worker has its pool, and with a cache one connection more, over which it looks at the outbox.
    """

    workers: int
    pool_size: int
    of_cache: int
    replicas: int
    max_connections: int
    reserved: int
    held_by_others: int

    @property
    def is_sufficient(self) -> bool:
        """Whether all pools may be full at once."""
        return self.needed <= self.free

    @property
    def needed(self) -> int:
        """The connections of all workers when all pools are full."""
        return self.workers * (self.pool_size + self.of_cache) * self.replicas

    @property
    def free(self) -> int:
        """The connections that are left for this service."""
        return self.max_connections - self.reserved - self.held_by_others

    def __str__(self) -> str:
        return (
            "Too many database connections: "
            f"{self.workers} workers × ({self.pool_size} connections + {self.of_cache} for the "
            f"cache) × {self.replicas} replicas = "
            f"{self.needed} connections, and the database has {self.free} for this service: "
            f"{self.max_connections} in all, {self.reserved} reserved, "
            f"{self.held_by_others} held by others. Lower DATABASE_POOL_SIZE or WEB_CONCURRENCY, "
            "or raise the server's max_connections."
        )


def read_connection_budget(
    database: DatabaseSettings, *, workers: int, replicas: int, has_cache: bool
) -> ConnectionBudget | MissingRoleTimeouts | None:
    """Ask the server, once, before the workers start. None when it cannot be reached.

    Ends the process if the server refuses what DATABASE_URL says, which no waiting would mend.
    """
    if database.pooler:
        wanted = session_timeouts(database)
        rows = asyncio.run(_ask(database, UNSET, list(wanted)))
        return None if rows is None else MissingRoleTimeouts(wanted, tuple(name for [name] in rows))
    rows = asyncio.run(_ask(database, CAPACITY, APPLICATION_NAME))
    if rows is None:
        return None
    return ConnectionBudget(workers, database.pool_size, int(has_cache), replicas, *rows[0])


def is_schema_behind(database: DatabaseSettings) -> bool:
    """Whether the server was reached and its schema misses a migration that this code needs."""
    rows = asyncio.run(_ask(database, "SELECT version_num FROM alembic_version"))
    if rows is None:
        return False
    return read_revisions().is_behind(rows[0]["version_num"] if rows else None)


async def _ask(
    database: DatabaseSettings, query: str, *arguments: object
) -> list[asyncpg.Record] | None:
    """Return the rows, none if a table is missing; return None if there was no answer."""
    timeout = database.connect_timeout_seconds
    try:
        connection = await asyncpg.connect(
            **asyncpg_arguments(database.url.get_secret_value()),
            timeout=timeout,
            command_timeout=timeout,
            statement_cache_size=0,  # it may be a pooler
        )
        try:
            rows: list[asyncpg.Record] = await connection.fetch(query, *arguments)
            return rows
        finally:
            connection.terminate()
    except REFUSALS as error:
        reason = str(error).partition("\n")[0]
        raise SystemExit(
            "The service cannot start. DATABASE_URL: the database refuses the connection "
            f"({reason}). Correct the user, "
            "the password, the name of the database or sslmode there."
        ) from None
    except asyncpg.UndefinedTableError:
        return []
    except (OSError, TimeoutError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError):
        return None
