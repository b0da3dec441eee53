"""Checks at start-up that PostgreSQL allows as many connections as all pools may open.

Otherwise the error appears under the highest load, when all pools fill up, and PostgreSQL refuses
migrations and administrators too. Behind PgBouncer, PgBouncer limits the connections, and start-up
checks the timeouts of the role instead.
"""

import asyncio
from dataclasses import dataclass

import asyncpg

from app.infra.database.pgbouncer import UNSET_TIMEOUTS, RoleTimeouts, session_timeouts
from app.infra.database.schema_version import read_revisions
from app.infra.database.settings import DatabaseSettings
from app.infra.settings_base.urls import asyncpg_arguments

APPLICATION_NAME = "app"
JOBS_APPLICATION_NAME = "app-jobs"
OWN_NAMES = [APPLICATION_NAME, JOBS_APPLICATION_NAME]
# A wrong user or password, or a database that does not exist.
LOGIN_ERRORS = (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError)
CONNECTIONS = """
    SELECT current_setting('max_connections')::int,
           current_setting('superuser_reserved_connections')::int
               + coalesce(current_setting('reserved_connections', true)::int, 0),
           (SELECT count(*) FROM pg_stat_activity
            WHERE backend_type = 'client backend'
              AND pid <> pg_backend_pid()
              -- Another service from the same template has the same name, but another database.
              AND NOT coalesce(application_name = ANY($1) AND datname = current_database(), false))
"""


@dataclass(frozen=True, slots=True)
class ConnectionBudget:
    """How many connections the service may open, and how many PostgreSQL has for it.

    `cache_connections` is 1 with a cache: each worker reads the outbox over its own connection.
    A job worker has one for each job that it runs at the same time, and one for the queue.
    """

    workers: int
    pool_size: int
    cache_connections: int
    replicas: int
    job_workers: int
    concurrent_jobs: int
    max_connections: int
    reserved: int
    held_by_others: int

    @property
    def needed(self) -> int:
        """How many connections all workers have when all pools are full."""
        for_requests = self.workers * (self.pool_size + self.cache_connections) * self.replicas
        return for_requests + self.job_workers * self._of_each_job_worker

    @property
    def _of_each_job_worker(self) -> int:
        return self.concurrent_jobs + 1 + self.cache_connections

    @property
    def free(self) -> int:
        return self.max_connections - self.reserved - self.held_by_others

    @property
    def is_sufficient(self) -> bool:
        return self.needed <= self.free

    def __str__(self) -> str:
        return (
            f"Too many database connections: {self.workers} workers × ({self.pool_size} "
            f"connections + {self.cache_connections} for the cache) × {self.replicas} instances + "
            f"{self.job_workers} job workers × {self._of_each_job_worker} = "
            f"{self.needed} connections, but the database has {self.free} for this service: "
            f"{self.max_connections} in all, minus {self.reserved} reserved and "
            f"{self.held_by_others} held by other clients. Lower DATABASE_POOL_SIZE, "
            "WEB_CONCURRENCY or JOBS_CONCURRENCY, or raise max_connections of PostgreSQL."
        )


def read_connection_budget(
    settings: DatabaseSettings,
    *,
    workers: int,
    replicas: int,
    has_cache: bool,
    job_workers: int,
    concurrent_jobs: int,
) -> ConnectionBudget | RoleTimeouts | None:
    """Ask PostgreSQL, before the workers start. Return None when it cannot be reached.

    Exits if PostgreSQL rejects the login, because waiting would not help.
    """
    if settings.pooler:
        timeouts = session_timeouts(settings)
        rows = asyncio.run(_fetch(settings, UNSET_TIMEOUTS, list(timeouts)))
        return None if rows is None else RoleTimeouts(timeouts, tuple(name for [name] in rows))
    rows = asyncio.run(_fetch(settings, CONNECTIONS, OWN_NAMES))
    if rows is None:
        return None
    return ConnectionBudget(
        workers,
        settings.pool_size,
        int(has_cache),
        replicas,
        job_workers,
        concurrent_jobs,
        *rows[0],
    )


def is_schema_behind(settings: DatabaseSettings) -> bool:
    """Return whether the schema lacks a migration. False when PostgreSQL cannot be reached."""
    rows = asyncio.run(_fetch(settings, "SELECT version_num FROM alembic_version"))
    if rows is None:
        return False
    return read_revisions().is_behind(rows[0]["version_num"] if rows else None)


async def _fetch(
    settings: DatabaseSettings, query: str, *arguments: object
) -> list[asyncpg.Record] | None:
    """Return [] if a table is missing, None if the database is unreachable."""
    timeout = settings.connect_timeout_seconds
    try:
        connection = await asyncpg.connect(
            **asyncpg_arguments(settings.url.get_secret_value()),
            timeout=timeout,
            command_timeout=timeout,
            statement_cache_size=0,  # for PgBouncer
        )
        try:
            rows: list[asyncpg.Record] = await connection.fetch(query, *arguments)
            return rows
        finally:
            connection.terminate()
    except LOGIN_ERRORS as error:
        reason = str(error).partition("\n")[0]
        raise SystemExit(
            f"The service cannot start. DATABASE_URL: the database refuses the login ({reason}). "
            "Correct the user, the password, the name of the database or sslmode in it."
        ) from None
    except asyncpg.UndefinedTableError:
        return []
    except (OSError, TimeoutError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError):
        return None
