"""Reads the whole request body, up to a limit, before anything inside runs.

A client that sends slowly therefore holds only its connection: no slot of the concurrency limit and
no database connection. The server limits how long it may take.

A route that declares more than a MiB takes uploads. What any body has beyond that comes out of a
budget of the process, so that bodies cannot use up its memory.
"""

from functools import partial

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import InvalidRequest, Unavailable
from app.infra.observability.metrics import REFUSED
from app.infra.web.body_shape import check_body_shape
from app.infra.web.known_route import KnownRoute
from app.infra.web.problems import code_of, problem, problem_of
from app.infra.web.response_headers import headers_before_body
from app.infra.web.routing import route_table_of
from app.infra.web.upload_budget import UPLOAD_BYTES, ClientSilent, Upload, UploadBudget

STOPPED = "The client stopped sending the file."


class TooLarge(Exception):
    def __init__(self, limit_bytes: int) -> None:
        super().__init__()
        self.limit_bytes = limit_bytes


class BodyLimitMiddleware:
    """Pure ASGI. A declared length above the limit is refused before the body is read.

    The limit is the `max_body_size` of the route. If that is a MiB or less, it is also at most
    `limit_bytes`. All bodies together may have `upload_bytes` beyond a MiB of each, and `uploads`
    uploads run at the same time. Others get 503. An upload whose client stops sending gets 408. No
    body that a route parses may contain more than `most_values` values. The bytes of a file may be
    anything, whatever its Content-Type says.
    """

    def __init__(
        self, app: ASGIApp, limit_bytes: int, most_values: int, uploads: int, upload_bytes: int
    ) -> None:
        self.app = app
        self._limit_bytes = limit_bytes
        self._most_values = most_values
        self._budget = UploadBudget(uploads, upload_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        length = _declared_length(scope) if scope["type"] == "http" else 0
        if length == 0:
            await self.app(scope, receive, send)
            return
        route, found = route_table_of(scope).find(scope)
        limit_bytes = self._limit_of(route)
        upload = Upload(self._budget)
        try:
            if length is not None and length > limit_bytes:
                raise TooLarge(limit_bytes)
            if _takes_uploads(route):
                async with upload.turn():
                    following = partial(upload.next_message, receive)
                    body = await self._read(following, limit_bytes, upload)
            else:
                body = await self._read(receive, limit_bytes, upload)
            if route is None or route.parses_body:
                check_body_shape(scope, body, self._most_values)
        except TooLarge as too_large:
            scope.update(found)  # the problem depends on the endpoint
            await self._refuse(too_large, scope, receive, send)
        except ClientSilent:
            REFUSED.labels("silent_upload").inc()
            closing = {"Connection": "close"}
            response = problem(scope, 408, code_of(408), STOPPED, headers=closing)
            await response(scope, receive, send)
        except Unavailable as busy:
            REFUSED.labels("uploads").inc()
            response = problem_of(scope, busy)
            response.headers.update(headers_before_body(scope))
            await response(scope, receive, send)
        except InvalidRequest as invalid:
            REFUSED.labels("body_shape").inc()
            scope.update(found)
            await problem_of(scope, invalid)(scope, receive, send)
        else:
            await self.app(scope, _replay(body, receive), send)
        finally:
            upload.end()

    def _limit_of(self, route: KnownRoute | None) -> int:
        if route is None or route.max_body_bytes is None:
            return self._limit_bytes
        if _takes_uploads(route):
            return route.max_body_bytes
        return min(route.max_body_bytes, self._limit_bytes)

    async def _read(self, receive: Receive, limit_bytes: int, upload: Upload) -> bytes:
        parts, size, more = [], 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > limit_bytes:
                raise TooLarge(limit_bytes)
            upload.grow_to(size)
            more = message.get("more_body", False)
        return b"".join(parts)

    async def _refuse(
        self, too_large: TooLarge, scope: Scope, receive: Receive, send: Send
    ) -> None:
        REFUSED.labels("body_size").inc()
        headers = headers_before_body(scope)
        detail = f"A body may have {too_large.limit_bytes} bytes."
        await problem(scope, 413, code_of(413), detail, headers=headers)(scope, receive, send)


def _takes_uploads(route: KnownRoute | None) -> bool:
    return (
        route is not None
        and route.max_body_bytes is not None
        and route.max_body_bytes > UPLOAD_BYTES
    )


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
