"""A connection to Valkey on which commands do not wait for the replies to earlier ones.

Valkey replies in the order of the commands. A command costs a third of the CPU time that it costs
with a connection of its own from a pool.
"""

import asyncio
import socket
import ssl
from collections import deque
from collections.abc import Sequence
from typing import Any

from hiredis import Reader, pack_command
from redis.asyncio import ConnectionPool, SSLConnection
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    InvalidResponse,
    MasterDownError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as ConnectionLost
from redis.exceptions import TimeoutError as CommandTimeout

from coherent_cache.budget import OverdueTimer

# The errors that an error reply begins with, where they are more than a `ResponseError`.
ERRORS: dict[str, type[RedisError]] = {
    "LOADING": BusyLoadingError,
    "MASTERDOWN": MasterDownError,
    "NOAUTH": AuthenticationError,
    "NOPERM": NoPermissionError,
    "NOSCRIPT": NoScriptError,
    "OOM": OutOfMemoryError,
    "READONLY": ReadOnlyError,
    "WRONGPASS": AuthenticationError,
}
TOO_MANY_CLIENTS = "ERR max number of clients reached"


class Connection(asyncio.Protocol):
    """One connection, made by `open_connection`."""

    def __init__(self, timeout_seconds: float) -> None:
        self._timeout_seconds = timeout_seconds
        self._loop = asyncio.get_running_loop()
        self._reader = Reader(protocolError=InvalidResponse, replyError=_to_error)
        self._waiting: deque[asyncio.Future[Any]] = deque()
        self._callers = 0
        self._transport: asyncio.Transport | None = None
        self._why_closed = "closed"
        self.is_usable = False

    async def execute(self, arguments: Sequence[Any]) -> Any:
        """Send a command and return its reply. An error reply is raised.

        Raises `TimeoutError` of redis-py without a reply in time. The connection is then not usable
        any more, because nobody may be at its other end. Commands that were sent before still get
        their replies. Raises `ConnectionError` if the connection is lost before the reply.
        """
        if self._transport is None or self._transport.is_closing():
            self.is_usable = False  # `connection_lost` is called later
            raise self._lost(None)
        reply = self._loop.create_future()
        name, *values = arguments
        words = name.split()  # redis-py writes some names with a space: SCRIPT LOAD
        self._transport.write(pack_command((*words, *values)))
        self._waiting.append(reply)
        timer = OverdueTimer(self._timeout_seconds, lambda: self._give_up(reply))
        self._callers += 1
        try:
            return await reply
        finally:
            timer.cancel()
            self._callers -= 1
            if not self.is_usable and not self._callers:
                self.close()

    def close(self) -> None:
        """Close the connection now. Commands without a reply raise `ConnectionError`."""
        self.is_usable = False
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: Any) -> None:
        self._transport, self.is_usable = transport, True

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        try:
            while (value := self._reader.gets()) is not False:
                if not self._waiting:
                    if isinstance(value, RedisError):
                        self._why_closed = str(value)  # "max number of clients reached"
                    return self.close()
                reply = self._waiting.popleft()
                if reply.done():  # its caller was cancelled, or has given up
                    continue
                if isinstance(value, RedisError):
                    reply.set_exception(value)
                else:
                    reply.set_result(value)
        except InvalidResponse:
            self._why_closed = "this is not the protocol of Valkey"
            self.close()

    def connection_lost(self, error: Exception | None) -> None:
        self.is_usable = False
        for reply in self._waiting:
            if not reply.done():
                reply.set_exception(self._lost(error))
        self._waiting.clear()

    def _give_up(self, reply: asyncio.Future[Any]) -> None:
        self.is_usable = False
        if not reply.done():
            reply.set_exception(CommandTimeout("Valkey did not answer in time."))

    def _lost(self, error: Exception | None) -> ConnectionLost:
        return ConnectionLost(f"The connection to Valkey was lost: {error or self._why_closed}")


async def open_connection(pool: ConnectionPool, timeout_seconds: float) -> Connection:
    """Connect to the server that the pool is for, log in and select the database.

    Raises one of redis-py's errors.
    """
    connection = Connection(timeout_seconds)
    try:
        async with asyncio.timeout(timeout_seconds):
            await _connect(pool, connection)
            for command in _greeting(pool.connection_kwargs):
                await connection.execute(command)
    except BaseException as error:
        connection.close()
        if isinstance(error, TimeoutError):
            raise CommandTimeout("Valkey did not accept a connection in time.") from None
        if isinstance(error, OSError):
            raise ConnectionLost(f"Cannot connect to Valkey: {error}") from error
        if isinstance(error, ResponseError):
            raise ConnectionLost(f"Valkey refuses the connection: {error}") from error
        raise
    return connection


async def _connect(pool: ConnectionPool, connection: Connection) -> None:
    loop, options = asyncio.get_running_loop(), pool.connection_kwargs
    if "path" in options:
        await loop.create_unix_connection(lambda: connection, options["path"])
        return
    host, port = options.get("host", "localhost"), options.get("port", 6379)
    # redis-py knows what the parameters of a `rediss://` URL mean.
    redis_py: Any = pool.make_connection()
    tls: ssl.SSLContext | None = None
    if isinstance(redis_py, SSLConnection):
        tls = redis_py.ssl_context.get()
    transport, _ = await loop.create_connection(lambda: connection, host, port, ssl=tls)
    # A firewall drops connections that are idle for minutes, and tells nobody.
    tcp = transport.get_extra_info("socket")
    tcp.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in redis_py.socket_keepalive_options.items():
        tcp.setsockopt(socket.IPPROTO_TCP, option, value)


def _greeting(options: dict[str, Any]) -> list[tuple[Any, ...]]:
    """Return what redis-py would send first on a new connection with these options."""
    commands: list[tuple[Any, ...]] = []
    if password := options.get("password"):
        user = options.get("username")
        commands.append(("AUTH", user, password) if user else ("AUTH", password))
    if database := options.get("db"):
        commands.append(("SELECT", database))
    return commands


def _to_error(message: str) -> RedisError:
    if message == TOO_MANY_CLIENTS:  # it may look like the reply to the first command
        return ConnectionLost(message)
    code, _, text = message.partition(" ")
    kind = ERRORS.get(code)
    return ResponseError(message) if kind is None else kind(text)
