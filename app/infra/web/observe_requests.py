"""Starts the request context, and calls the observers when the request has been answered.

One middleware calls all observers, because a middleware for each would cost more than the observers
themselves (`make bench only=middleware`).
"""

from collections.abc import Awaitable, Callable, Sequence

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.infra.observability.request_context import RequestContext, request_context
from app.infra.web.response_headers import PRIVATE, read_request_id

# A response may be stored only if its route or the response cache says so.
PRIVATE_NO_STORE = (b"cache-control", PRIVATE.encode())
# Makes a header when the response starts.
Header = Callable[[RequestContext], tuple[bytes, bytes]]
# Is called when the response has ended or was cut off. It must not raise.
Observer = Callable[[RequestContext], object]


class ObservationMiddleware:
    """Pure ASGI. Only `TrustedHopsMiddleware` stands outside it.

    Observers are called in order, on the event loop.
    `fixed` are the headers that are the same on every response.
    """

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
        self._fixed = fixed
        self._observers = observers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        service = scope["app"]  # now, because a mounted application replaces it
        client, _ = scope.get("client") or (None, None)
        current = RequestContext(read_request_id(scope), scope["method"], scope["path"], client)
        outer = request_context.set(current)

        # Not `async`: a coroutine that only passes the call on would cost a quarter more.
        def send_observed(message: Message) -> Awaitable[None]:
            if message["type"] == "http.response.start":
                current.status, current.has_started = message["status"], True
                given = message.get("headers", ())
                headers = message["headers"] = [*given, *current.headers, *self._fixed]
                if b"cache-control" not in dict(given):
                    headers.append(PRIVATE_NO_STORE)
                for header in self._headers:
                    headers.append(header(current))  # noqa: PERF401 - a comprehension is one more call
            elif message["type"] == "http.response.body":
                current.is_complete = not message.get("more_body")
            return send(message)

        try:
            await self.app(scope, receive, send_observed)
        finally:
            current.stop_clock()
            if current.route is None:
                current.route = service.state.route_table.template(current.method, current.path)
            for observe in self._observers:
                observe(current)
            request_context.reset(outer)  # a route may have called this application
