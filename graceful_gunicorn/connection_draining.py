"""Drains keep-alive connections without losing a request: the next response closes the connection.

If a server closes an idle connection, the client may be sending its next request at that moment,
and that request is lost. A client that has received `Connection: close` opens a new connection
instead.
"""

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class CloseAfterResponse:
    """Wraps the application and adds `Connection: close`, so the server closes the connection.

    The header is not added while an unread body is still arriving: the TCP reset would destroy the
    response. In that case the response to the next request closes the connection.
    """

    def __init__(self, app: ASGIApp, connection: HttpToolsProtocol) -> None:
        self._app = app
        self._connection = connection

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application with a `send` that adds the header."""

        async def send_with_close(message: Message) -> None:
            if message["type"] == "http.response.start" and not self._connection.cycle.more_body:
                message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
            await send(message)

        await self._app(scope, receive, send_with_close)


def drain_connection(connection: HttpToolsProtocol) -> None:
    """Close the connection after the response to its current request, or else its next one."""
    if is_draining(connection):
        return
    connection.app = CloseAfterResponse(connection.app, connection)
    cycle = connection.cycle
    if cycle is not None and not cycle.response_started and not cycle.more_body:
        cycle.keep_alive = False  # Uvicorn then adds `Connection: close` to the current response


def is_draining(connection: HttpToolsProtocol) -> bool:
    """Return whether `drain_connection` has been called for this connection."""
    return isinstance(connection.app, CloseAfterResponse)


def is_idle(connection: HttpToolsProtocol) -> bool:
    """Return whether no request of this connection is being answered."""
    return connection.cycle is None or connection.cycle.response_complete
