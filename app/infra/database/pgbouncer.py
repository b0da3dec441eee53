"""PgBouncer in transaction mode, between the service and PostgreSQL (DATABASE_POOLER).

Each transaction may run on another server connection. So the service keeps no prepared statements,
and it cannot set timeouts itself: the database role must have them, and start-up checks that.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.infra.database.settings import DatabaseSettings

UNSET_TIMEOUTS = "SELECT name FROM pg_settings WHERE name = ANY($1) AND setting = '0' ORDER BY name"


def pgbouncer_arguments(settings: DatabaseSettings) -> Mapping[str, Any]:
    """Return SQLAlchemy's `connect_args` that keep asyncpg from preparing named statements.

    Behind PgBouncer each execution then takes two round trips, and PostgreSQL plans it anew.
    """
    if not settings.pooler:
        return {}
    return {
        "statement_cache_size": 0,
        "prepared_statement_cache_size": 0,
        "prepared_statement_name_func": lambda: "",
    }


def session_timeouts(settings: DatabaseSettings) -> dict[str, float]:
    """Return the timeouts of a session in seconds, by PostgreSQL's names for them."""
    return {
        "idle_in_transaction_session_timeout": settings.idle_in_transaction_timeout_seconds,
        "lock_timeout": settings.lock_timeout_seconds,
        "statement_timeout": settings.statement_timeout_seconds,
    }


@dataclass(frozen=True, slots=True)
class RoleTimeouts:
    """The timeouts that the service needs, in seconds, and the names of those not set."""

    needed: Mapping[str, float]
    missing: tuple[str, ...]

    @property
    def is_sufficient(self) -> bool:
        return not self.missing

    def __str__(self) -> str:
        statements = "; ".join(
            f"ALTER ROLE … SET {name} = '{round(self.needed[name] * 1000)}ms'"
            for name in self.missing
        )
        return (
            "Behind a pooler (DATABASE_POOLER) the role in DATABASE_URL must have timeouts. "
            f"Set these: {statements}."
        )
