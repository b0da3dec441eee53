"""The engine of a process: one pool, with a timeout for everything.

The first statement opens the first connection. So the service starts while the database is down,
and `/readyz` reports it.
"""

from typing import Any

from sqlalchemy import event
from sqlalchemy.engine.interfaces import DBAPIConnection, Dialect, ExceptionContext
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from app.errors import Unavailable
from app.infra.database.driver_errors import DISCONNECT_SQLSTATES, leaves_statement
from app.infra.database.error_values import remove_values
from app.infra.database.pgbouncer import pgbouncer_arguments, session_timeouts
from app.infra.database.pool import FifoPool, unreachable
from app.infra.database.query_stats import record_statements
from app.infra.database.settings import DatabaseSettings
from app.infra.database.transactions import send_transactions
from app.infra.observability.diagnostics import count_connections
from app.infra.observability.request_context import request_context
from app.infra.settings_base.urls import asyncpg_arguments

COMMAND_SECONDS = "command_timeout_seconds"
OUTBOX_COMMAND_SECONDS, OUTBOX_STATEMENT_SECONDS = 0.5, 0.4


def open_engine(settings: DatabaseSettings, application_name: str) -> AsyncEngine:
    """Create an engine. The caller disposes of it.

    A failed connection, a timeout and an exhausted pool raise `Unavailable`.
    """
    arguments = asyncpg_arguments(settings.url.get_secret_value())
    engine = create_async_engine(
        "postgresql+asyncpg://",
        poolclass=FifoPool,
        pool_size=settings.pool_size,
        max_overflow=0,
        pool_timeout=settings.pool_timeout_seconds,
        pool_recycle=settings.pool_recycle_seconds,
        isolation_level="AUTOCOMMIT",  # `send_transactions` sends BEGIN
        hide_parameters=True,  # errors are logged, and parameters may be personal data
        execution_options={COMMAND_SECONDS: settings.command_timeout_seconds},
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
    event.listen(engine.sync_engine, "do_connect", _connect)
    event.listen(engine.sync_engine, "commit", _forbid_retry)
    send_transactions(engine.sync_engine)
    event.listen(engine.sync_engine, "checkout", _replace_if_closed)
    count_connections(engine.sync_engine)  # last: a closed connection is replaced before it counts
    event.listen(engine.sync_engine, "handle_error", _remove_values)
    event.listen(engine.sync_engine, "handle_error", _handle_lost_connection)
    return engine


def command_seconds(engine: AsyncEngine) -> float:
    """Return DATABASE_COMMAND_TIMEOUT_SECONDS of an engine that `open_engine` has created."""
    return float(engine.get_execution_options()[COMMAND_SECONDS])


def open_outbox_engine(settings: DatabaseSettings, application_name: str) -> AsyncEngine:
    """Create the engine with one connection for reading the cache's outbox.

    PostgreSQL's statement timeout is the shorter one. If this process gave up first, the statement
    would go on running in PostgreSQL.
    """
    limits = {
        "pool_size": 1,
        "command_timeout_seconds": OUTBOX_COMMAND_SECONDS,
        "statement_timeout_seconds": OUTBOX_STATEMENT_SECONDS,
    }
    return open_engine(settings.model_copy(update=limits), application_name)


def _server_settings(settings: DatabaseSettings, application_name: str) -> dict[str, str]:
    # Exports have values in their SQL. A role or a database may have this setting off, and then a
    # backslash in a value would quote what follows it.
    always = {"application_name": application_name, "standard_conforming_strings": "on"}
    if settings.pooler:  # PgBouncer refuses other settings
        return always
    timeouts = session_timeouts(settings).items()
    return {
        **always,
        "client_connection_check_interval": "2000",
        **{name: str(round(seconds * 1000)) for name, seconds in timeouts},
    }


def _connect(
    dialect: Dialect, _record: ConnectionPoolEntry, arguments: Any, options: Any
) -> DBAPIConnection:
    try:
        return dialect.connect(*arguments, **options)
    except (OSError, TimeoutError, dialect.loaded_dbapi.Error) as error:
        raise unreachable(error) from error


def _forbid_retry(_connection: object) -> None:
    """Disable retries once COMMIT has been sent, because its outcome may be unknown."""
    if (current := request_context.get()) is not None:
        current.may_retry = False


def _replace_if_closed(connection: Any, _record: ConnectionPoolEntry, _proxy: Any) -> None:
    """Replace a connection that the server has closed. This takes no round trip."""
    if connection.driver_connection.is_closed():
        raise DisconnectionError


def _remove_values(context: ExceptionContext) -> None:
    """Remove values from the error of asyncpg, and from errors that repeat its message."""
    original = context.original_exception
    if (error := original.__cause__) is not None:
        quoting = str(error)
        remove_values(error)
        for repeating in (original, context.sqlalchemy_exception):
            if repeating is not None and repeating.args:
                text = str(repeating.args[0]).replace(quoting, str(error))
                repeating.args = (text, *repeating.args[1:])


def _handle_lost_connection(context: ExceptionContext) -> Unavailable | None:
    """Discard a connection that was closed, timed out or became read-only.

    The other connections of the pool are kept. Each is checked at its next checkout.
    """
    error = context.original_exception
    is_timeout = isinstance(error, TimeoutError)
    if is_timeout or getattr(error, "sqlstate", None) in DISCONNECT_SQLSTATES:
        context.is_disconnect = True
        context.invalidate_pool_on_disconnect = False
    if leaves_statement(error.__cause__):
        _end_statement(context)
    if not is_timeout:
        return None
    _abort(context)
    return Unavailable("The database did not answer in time.")


def _end_statement(context: ExceptionContext) -> None:
    """Close the connection, unless the end of a transaction will end the statement."""
    connection = context.connection
    if connection is not None and not (connection.closed or connection.invalidated):
        driver: Any = connection.connection.driver_connection
        if not driver.is_closed() and not driver.is_in_transaction():
            driver.terminate()


def _abort(context: ExceptionContext) -> None:
    """Close the socket at once. An orderly close would wait for the server too."""
    if context.connection is not None:
        driver_connection: Any = context.connection.connection.driver_connection
        driver_connection.terminate()
