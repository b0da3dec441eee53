"""Takes a body in, whole and no larger than allowed, before anything inside is run.

So a client that sends slowly holds a connection of the server and nothing else: no place among the
requests that run, no connection to the database. The server has a deadline for it.
"""

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.infra.metrics import REFUSED
from app.infra.web.problems import code_of, problem


class TooLarge(Exception):
    """More has come than a body may have."""


class BodyLimitMiddleware:
    """Pure ASGI. A length that is declared is refused before the body is read."""

    def __init__(self, app: ASGIApp, limit_bytes: int) -> None:
        self.app = app
        self._limit_bytes = limit_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        length = _declared(scope) if scope["type"] == "http" else 0
        if length == 0:
            await self.app(scope, receive, send)
            return
        try:
            if length is not None and length > self._limit_bytes:
                raise TooLarge
            body = await self._read(receive)
        except TooLarge:
            await self._refuse(scope, receive, send)
        else:
            await self.app(scope, _received(body, receive), send)

    async def _read(self, receive: Receive) -> bytes:
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            body += message.get("body", b"")
            if len(body) > self._limit_bytes:
                raise TooLarge
            more = message.get("more_body", False)
        return body

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        REFUSED.labels("body_size").inc()
        # Whoever waits to be asked for a body might send it or not: the connection has to end.
        expects = any(name == b"expect" for name, _ in scope["headers"])
        headers = {"Connection": "close"} if expects else {}
        detail = f"A body may have {self._limit_bytes} bytes."
        await problem(scope, 413, code_of(413), detail, headers=headers)(scope, receive, send)


def _declared(scope: Scope) -> int | None:
    """Return the length of the body that is to come, or None if there is one of unknown length."""
    length: int | None = 0
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value)
        if name == b"transfer-encoding":
            length = None
    return length


def _received(body: bytes, receive: Receive) -> Receive:
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_body_first() -> Message:
        return messages.pop() if messages else await receive()

    return receive_body_first
