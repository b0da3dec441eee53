"""One asynchronous engine and one pool a process, with every timeout set.

Nothing connects before the first statement: a service whose database is away starts, and says so
in `/readyz`.
"""

import logging
from collections.abc import Mapping
from typing import Any

import asyncpg
from sqlalchemy import event
from sqlalchemy.engine.interfaces import DBAPIConnection, Dialect
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from app.errors import Unavailable
from app.infra.database.pool import FairPool
from app.settings import DatabaseSettings

logger = logging.getLogger(__name__)

CONNECT_ERRORS = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError)


def open_engine(settings: DatabaseSettings, application_name: str) -> AsyncEngine:
    """Build the engine of this process. Whoever opens it disposes of it.

    Refused connections and connect timeouts raise `Unavailable`, as does a full pool.
    """
    engine = create_async_engine(
        settings.url.get_secret_value(),
        poolclass=FairPool,
        pool_size=settings.pool_size,
        max_overflow=0,
        pool_timeout=settings.pool_timeout_seconds,
        pool_recycle=settings.pool_recycle_seconds,
        connect_args={
            "timeout": settings.connect_timeout_seconds,
            "command_timeout": settings.command_timeout_seconds,
            "server_settings": _server_settings(settings, application_name),
        },
    )
    event.listen(engine.sync_engine, "do_connect", _connect)
    event.listen(engine.sync_engine, "checkout", _replace_closed)
    return engine


def _server_settings(settings: DatabaseSettings, application_name: str) -> Mapping[str, str]:
    def milliseconds(seconds: float) -> str:
        return str(round(seconds * 1000))

    return {
        "application_name": application_name,
        "statement_timeout": milliseconds(settings.statement_timeout_seconds),
        "lock_timeout": milliseconds(settings.lock_timeout_seconds),
        "idle_in_transaction_session_timeout": milliseconds(
            settings.idle_in_transaction_timeout_seconds
        ),
        "client_connection_check_interval": "2000",
    }


def _connect(
    dialect: Dialect, _record: ConnectionPoolEntry, arguments: Any, options: Any
) -> DBAPIConnection:
    try:
        return dialect.connect(*arguments, **options)
    except CONNECT_ERRORS as error:
        logger.warning("The database refused a connection: %s: %s", type(error).__name__, error)
        raise Unavailable("The database cannot be reached.") from error


def _replace_closed(connection: Any, _record: ConnectionPoolEntry, _proxy: Any) -> None:
    """Replace a connection whose socket the server has closed meanwhile, at no round trip."""
    if connection.driver_connection.is_closed():
        raise DisconnectionError
