"""Reads the whole request body, up to a limit, before anything inside runs.

A client that sends slowly therefore holds only its connection: no slot of the concurrency limit and
no database connection. The server limits how long it may take, and a budget of the process limits
the memory for bodies. A route that declares more than a MiB takes uploads.
"""

from functools import partial

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import AppError, InvalidRequest, Unauthenticated, Unavailable
from app.infra.observability.metrics import REFUSED
from app.infra.resources import ProcessResources
from app.infra.web.body_budget import Body, BodyBudget, ClientSilent
from app.infra.web.body_shape import check_body_shape
from app.infra.web.client_address import bearer_token
from app.infra.web.known_route import KnownRoute
from app.infra.web.problems import problem_of
from app.infra.web.response_headers import headers_before_body
from app.infra.web.routing import route_table_of
from app.infra.web.token_required import NO_TOKEN


class TooLarge(AppError):
    status = 413
    code = "too_large"


# What http_requests_refused_total counts an error as. A missing token is no limit.
COUNTED_AS = {
    TooLarge: "body_size",
    ClientSilent: "silent_upload",
    Unavailable: "uploads",
    InvalidRequest: "body_shape",
}


class BodyLimitMiddleware:
    """Pure ASGI. A declared length above the limit is refused before the body is read.

    So is a request without a valid access token, if the route requires one. The limit is the
    `max_body_size` of the route. If that is a MiB or less, it is also at most `limit_bytes`. All
    bodies together may have `upload_bytes` beyond 64 KiB of each, and `uploads` uploads run at the
    same time. Others get 503. An upload whose client stops sending gets 408. No body that a route
    parses may contain more than `most_values` values. The bytes of a file may be anything, whatever
    its Content-Type says.
    """

    def __init__(
        self, app: ASGIApp, limit_bytes: int, most_values: int, uploads: int, upload_bytes: int
    ) -> None:
        self.app = app
        self._limit_bytes = limit_bytes
        self._most_values = most_values
        self._budget = BodyBudget(uploads, upload_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        length = _declared_length(scope) if scope["type"] == "http" else 0
        if length == 0:
            await self.app(scope, receive, send)
            return
        route, found = route_table_of(scope).find(scope)
        if route is not None and not route.takes(scope["method"]):
            route = None  # It will get 405, so what the route declares does not apply.
        body = Body(self._budget)
        try:
            content = await self._receive(scope, receive, route, length, body)
        except AppError as error:
            if type(error) in COUNTED_AS:
                REFUSED.labels(COUNTED_AS[type(error)]).inc()
            scope.update(found)  # the problem depends on the endpoint
            response = problem_of(scope, error)
            response.headers.update(_headers(scope, error))
            await response(scope, receive, send)
        else:
            await self.app(scope, _replay(content, receive), send)
        finally:
            body.end()

    async def _receive(
        self,
        scope: Scope,
        receive: Receive,
        route: KnownRoute | None,
        length: int | None,
        body: Body,
    ) -> bytes:
        """Return the whole body, or raise an `AppError`."""
        _check_access_token(scope, route)
        most = self._limit_of(route)
        if length is not None and length > most:
            raise _too_large(most)
        async with body.received():
            if route is not None and route.takes_uploads:
                async with body.turn():
                    content = await _read(partial(body.next_message, receive), most, body)
            else:
                content = await _read(receive, most, body)
        if route is None or route.parses_body:
            check_body_shape(scope, content, self._most_values)
        return content

    def _limit_of(self, route: KnownRoute | None) -> int:
        if route is None or route.max_body_bytes is None:
            return self._limit_bytes
        if route.takes_uploads:
            return route.max_body_bytes
        return min(route.max_body_bytes, self._limit_bytes)


async def _read(receive: Receive, most: int, body: Body) -> bytes:
    parts, size, more = [], 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > most:
            raise _too_large(most)
        body.grow_to(size)
        more = message.get("more_body", False)
    return b"".join(parts)


def _check_access_token(scope: Scope, route: KnownRoute | None) -> None:
    """Raise `Unauthenticated` if the route would do so anyway, whatever the body is."""
    app = scope["app"]
    resources: ProcessResources | None = getattr(app.state, "resources", None)
    if resources is None or app.dependency_overrides:  # which decide who the caller is
        return
    if route is not None and route.requires_access_token:
        token = bearer_token(scope)
        if token is None:
            raise Unauthenticated(NO_TOKEN)
        resources.access_tokens.verify(token)


def _too_large(most: int) -> TooLarge:
    return TooLarge(f"A body may have {most} bytes.")


def _headers(scope: Scope, error: AppError) -> dict[str, str]:
    if isinstance(error, ClientSilent):
        return {"Connection": "close"}
    return headers_before_body(scope)


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
