"""One asynchronous engine and one pool a process, with every timeout set.

Nothing connects before the first statement: a service whose database is away starts, and says so
in `/readyz`.
"""

import logging
from typing import Any

import asyncpg
from sqlalchemy import event
from sqlalchemy.engine.interfaces import DBAPIConnection, Dialect, ExceptionContext
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from app.errors import Unavailable
from app.infra.database.pgbouncer import pgbouncer_arguments, session_timeouts
from app.infra.database.pool import FifoPool
from app.infra.database.query_stats import record_statements
from app.infra.database.retry import record_commit
from app.infra.database.settings import DatabaseSettings
from app.infra.observability.diagnostics.leak_detection import watch_connections
from app.infra.observability.repeat_filter import RepeatFilter
from app.infra.observability.tracing import trace_statements, traces
from app.infra.settings_base.urls import asyncpg_arguments

logger = logging.getLogger(__name__)
logger.addFilter(RepeatFilter())  # every request tries to connect while the database is away

OUTBOX_COMMAND_SECONDS, OUTBOX_STATEMENT_SECONDS = 0.5, 0.4
# admin_shutdown, crash_shutdown, cannot_connect_now; and read_only_sql_transaction, because after a
# failover the connection leads to what is now a standby.
UNUSABLE = ("57P01", "57P02", "57P03", "25006")


def open_engine(settings: DatabaseSettings, application_name: str) -> AsyncEngine:
    """Build the engine of this process. Whoever opens it disposes of it.

    Refused connections, connect timeouts and statements without an answer within the command
    timeout raise `Unavailable`, as does a full pool.
    """
    arguments = asyncpg_arguments(settings.url.get_secret_value())
    engine = create_async_engine(
        "postgresql+asyncpg://",
        poolclass=FifoPool,
        pool_size=settings.pool_size,
        max_overflow=0,
        pool_timeout=settings.pool_timeout_seconds,
        pool_recycle=settings.pool_recycle_seconds,
        hide_parameters=True,  # errors are logged, and parameters are what clients sent
        connect_args={
            **arguments,
            "timeout": settings.connect_timeout_seconds,
            "command_timeout": settings.command_timeout_seconds,
            "server_settings": arguments["server_settings"]
            | _server_settings(settings, application_name),
            **pgbouncer_arguments(settings),
        },
    )
    record_statements(engine.sync_engine)
    if traces():
        trace_statements(engine.sync_engine)
    event.listen(engine.sync_engine, "do_connect", _connect)
    event.listen(engine.sync_engine, "commit", record_commit)
    event.listen(engine.sync_engine, "checkout", _replace_closed)
    watch_connections(engine.sync_engine)  # after it: one that is replaced was not taken out
    event.listen(engine.sync_engine, "handle_error", _forget_row)
    event.listen(engine.sync_engine, "handle_error", _drop_unusable)
    return engine


def open_outbox_engine(settings: DatabaseSettings, application_name: str) -> AsyncEngine:
    """Build the engine with the one connection that looks at the outbox: see `capacity.py`.

    PostgreSQL ends a slow statement before this process gives up: a connection that is given up
    leaves its statement running.
    """
    own = {
        "pool_size": 1,
        "command_timeout_seconds": OUTBOX_COMMAND_SECONDS,
        "statement_timeout_seconds": OUTBOX_STATEMENT_SECONDS,
    }
    return open_engine(settings.model_copy(update=own), application_name)


def _server_settings(settings: DatabaseSettings, application_name: str) -> dict[str, str]:
    if settings.pooler:  # which refuses all others
        return {"application_name": application_name}
    timeouts = session_timeouts(settings).items()
    return {
        "application_name": application_name,
        "client_connection_check_interval": "2000",
        **{name: str(round(seconds * 1000)) for name, seconds in timeouts},
    }


def _connect(
    dialect: Dialect, _record: ConnectionPoolEntry, arguments: Any, options: Any
) -> DBAPIConnection:
    try:
        return dialect.connect(*arguments, **options)
    except (OSError, TimeoutError, dialect.loaded_dbapi.Error) as error:
        logger.warning("The database refused a connection: %s: %s", type(error).__name__, error)
        raise Unavailable("The database cannot be reached.") from error


def _replace_closed(connection: Any, _record: ConnectionPoolEntry, _proxy: Any) -> None:
    """Replace a connection whose socket the server has closed meanwhile, at no round trip."""
    if connection.driver_connection.is_closed():
        raise DisconnectionError


def _forget_row(context: ExceptionContext) -> None:
    """Cut the detail off an error: it quotes the row, and errors are logged."""
    original = context.original_exception
    for error in (original, original.__cause__, context.sqlalchemy_exception):
        if error is not None and error.args:
            error.args = (str(error.args[0]).partition("\nDETAIL:")[0], *error.args[1:])
    if isinstance(original.__cause__, asyncpg.PostgresError):
        original.__cause__.detail = None


def _drop_unusable(context: ExceptionContext) -> Unavailable | None:
    """Have a connection dropped whose server has ended it, does not answer or cannot write.

    The others are left alone: each is looked at when it is next checked out.
    """
    error = context.original_exception
    frozen = isinstance(error, TimeoutError)
    if frozen or getattr(error, "sqlstate", None) in UNUSABLE:
        context.is_disconnect = True
        context.invalidate_pool_on_disconnect = False
    if not frozen:
        return None
    _abort(context)
    return Unavailable("The database did not answer in time.")


def _abort(context: ExceptionContext) -> None:
    """Close the socket without the farewell, which would wait for an answer as well."""
    if context.connection is not None:
        driver_connection: Any = context.connection.connection.driver_connection
        driver_connection.terminate()
