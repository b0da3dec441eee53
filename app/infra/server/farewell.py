"""Ends keep-alive connections without a loss: their next response says that it is the last.

A connection that a server closes while it is idle may carry the client's next request just then. A
client that was told `Connection: close` opens another one instead.
"""

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class Farewell:
    """The application, with a header that makes the server close the connection afterwards.

    Not while the client still sends a body that nobody reads: closed then, it is cut off from its
    answer. Its next request will do.
    """

    def __init__(self, app: ASGIApp, connection: HttpToolsProtocol) -> None:
        self._app = app
        self._connection = connection

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as the application does."""

        async def send_farewell(message: Message) -> None:
            if message["type"] == "http.response.start" and not self._connection.cycle.more_body:
                message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
            await send(message)

        await self._app(scope, receive, send_farewell)


def bid_farewell(connection: HttpToolsProtocol) -> None:
    """Let the running request of a connection be its last, or else the next one."""
    if is_leaving(connection):
        return
    connection.app = Farewell(connection.app, connection)
    cycle = connection.cycle
    if cycle is not None and not cycle.response_started and not cycle.more_body:
        cycle.keep_alive = False  # the protocol adds the header


def is_leaving(connection: HttpToolsProtocol) -> bool:
    """Whether it has been told, or will be."""
    return isinstance(connection.app, Farewell)


def is_idle(connection: HttpToolsProtocol) -> bool:
    """Whether nothing is being answered."""
    return connection.cycle is None or connection.cycle.response_complete
