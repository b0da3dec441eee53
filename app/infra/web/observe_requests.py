"""Starts the request context, and calls the observers when the request has been answered.

One layer for all of them: one that only looks on costs as much for standing around the request as
for what it does (`python -m benchmarks.layers`).
"""

from collections.abc import Awaitable, Callable, Sequence

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.infra.observability.request_context import RequestContext, request_context
from app.infra.web.request_id import request_id_of
from app.infra.web.routing import route_table_of
from app.infra.web.security_headers import PRIVATE

# Who may keep an answer is said by its route or by the response cache, or else it is nobody.
NOT_KEPT = (b"cache-control", PRIVATE.encode())
# What an observer adds to the answer, as it begins.
Header = Callable[[RequestContext], tuple[bytes, bytes]]
# What an observer does when the answer is whole, or was broken off. It must not raise.
Observer = Callable[[RequestContext], object]


class ObservationMiddleware:
    """Pure ASGI, the outermost layer. Observers are called in their order, on the event loop."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        headers: Sequence[Header],
        observers: Sequence[Observer],
        fixed: Sequence[tuple[bytes, bytes]] = (),
    ) -> None:
        self.app = app
        self._headers = headers
        self._fixed = fixed  # headers that are the same on every answer
        self._observers = observers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        client, _ = scope.get("client") or (None, None)
        current = RequestContext(request_id_of(scope), scope["method"], scope["path"], client)
        request_context.set(current)  # the server runs each request in a context of its own

        # Not `async`: a coroutine that only hands on is a quarter of what this layer costs.
        def send_observed(message: Message) -> Awaitable[None]:
            if message["type"] == "http.response.start":
                current.status = message["status"]
                given = message.get("headers", ())
                headers = message["headers"] = [*given, *self._fixed]
                if not any(name == b"cache-control" for name, _ in given):
                    headers.append(NOT_KEPT)
                for header in self._headers:
                    headers.append(header(current))  # noqa: PERF401 - a comprehension is one more call
            return send(message)

        try:
            await self.app(scope, receive, send_observed)
        finally:
            current.stop_clock()
            if current.route is None:
                current.route = _template_of(scope)
            for observe in self._observers:
                observe(current)


def _template_of(scope: Scope) -> str | None:
    """Return the template of the route that has the path of a request, in any method."""
    route, _ = route_table_of(scope).find(scope)
    return None if route is None else route.template
