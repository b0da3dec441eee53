"""Reads the whole request body, up to a limit, before anything inside runs.

A client that sends slowly therefore holds only its connection: no slot of the concurrency limit and
no database connection. The server limits how long it may take.
"""

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import InvalidRequest
from app.infra.observability.metrics import REFUSED
from app.infra.web.body_shape import check_body_shape
from app.infra.web.problems import code_of, problem, problem_of
from app.infra.web.response_headers import headers_before_body
from app.infra.web.routing import KnownRoute, route_table_of


class TooLarge(Exception):
    def __init__(self, limit_bytes: int) -> None:
        super().__init__()
        self.limit_bytes = limit_bytes


class BodyLimitMiddleware:
    """Pure ASGI. A declared length above the limit is refused before the body is read.

    The limit is the `max_body_size` of the route, and at most `limit_bytes`. No body may contain
    more than `most_values` values.
    """

    def __init__(self, app: ASGIApp, limit_bytes: int, most_values: int) -> None:
        self.app = app
        self._limit_bytes = limit_bytes
        self._most_values = most_values

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        length = _declared_length(scope) if scope["type"] == "http" else 0
        if length == 0:
            await self.app(scope, receive, send)
            return
        route, found = route_table_of(scope).find(scope)
        limit_bytes = self._limit_of(route)
        try:
            if length is not None and length > limit_bytes:
                raise TooLarge(limit_bytes)
            body = await self._read(receive, limit_bytes)
            check_body_shape(scope, body, self._most_values)
        except TooLarge as too_large:
            scope.update(found)  # the problem depends on the endpoint
            await self._refuse(too_large, scope, receive, send)
        except InvalidRequest as invalid:
            REFUSED.labels("body_shape").inc()
            scope.update(found)
            await problem_of(scope, invalid)(scope, receive, send)
        else:
            await self.app(scope, _replay(body, receive), send)

    def _limit_of(self, route: KnownRoute | None) -> int:
        declared = None if route is None else route.max_body_bytes
        return self._limit_bytes if declared is None else min(declared, self._limit_bytes)

    async def _read(self, receive: Receive, limit_bytes: int) -> bytes:
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            body += message.get("body", b"")
            if len(body) > limit_bytes:
                raise TooLarge(limit_bytes)
            more = message.get("more_body", False)
        return body

    async def _refuse(
        self, too_large: TooLarge, scope: Scope, receive: Receive, send: Send
    ) -> None:
        REFUSED.labels("body_size").inc()
        headers = headers_before_body(scope)
        detail = f"A body may have {too_large.limit_bytes} bytes."
        await problem(scope, 413, code_of(413), detail, headers=headers)(scope, receive, send)


def _declared_length(scope: Scope) -> int | None:
    """Return the length of the body: 0 without a body, and None if the length is unknown."""
    length: int | None = 0
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value)
        if name == b"transfer-encoding":
            length = None
    return length


def _replay(body: bytes, receive: Receive) -> Receive:
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_body_first() -> Message:
        return messages.pop() if messages else await receive()

    return receive_body_first
