"""PgBouncer in transaction mode, between the service and PostgreSQL: DATABASE_POOLER.

Each transaction may run on another connection of the server, and nothing may be left on one. So no
statement is kept prepared, and the timeouts are those of the role, which start-up looks for.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.infra.database.settings import DatabaseSettings

# Of `pg_settings`: those that were never set.
UNSET = "SELECT name FROM pg_settings WHERE name = ANY($1) AND setting = '0' ORDER BY name"


def pgbouncer_arguments(settings: DatabaseSettings) -> Mapping[str, Any]:
    """Return how the driver is to treat statements, for SQLAlchemy's `connect_args`.

    Behind a pooler a statement has no name and is sent whole with each execution: a second round
    trip, and PostgreSQL plans it each time.
    """
    if not settings.pooler:
        return {}
    return {
        "statement_cache_size": 0,
        "prepared_statement_cache_size": 0,
        "prepared_statement_name_func": lambda: "",
    }


@dataclass(frozen=True, slots=True)
class MissingRoleTimeouts:
    """The timeouts that the service wants, and which of them the role does not have."""

    wanted: Mapping[str, float]
    unset: tuple[str, ...]

    @property
    def is_sufficient(self) -> bool:
        """Whether the role has all of them."""
        return not self.unset

    def __str__(self) -> str:
        cures = "; ".join(
            f"ALTER ROLE … SET {name} = '{round(self.wanted[name] * 1000)}ms'"
            for name in self.unset
        )
        return (
            "Behind a pooler (DATABASE_POOLER) timeouts are the role's, and that of DATABASE_URL "
            f"lacks some: {cures}."
        )


def session_timeouts(settings: DatabaseSettings) -> dict[str, float]:
    """Return the seconds that the service allows, by PostgreSQL's names."""
    return {
        "idle_in_transaction_session_timeout": settings.idle_in_transaction_timeout_seconds,
        "lock_timeout": settings.lock_timeout_seconds,
        "statement_timeout": settings.statement_timeout_seconds,
    }
