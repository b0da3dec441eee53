"""Answers HEAD on every GET route: the same headers, without the body (RFC 9110, §9.3.2)."""

from collections.abc import Awaitable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.infra.observability.request_context import request_context


class HeadRequestMiddleware:
    """Everything inside this middleware sees a GET request, also after the response has started.

    The server sees that of the client, so it expects no body.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            return self.app(scope, receive, send)

        async def send_without_body(message: Message) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        return self.app({**scope, "method": "GET"}, receive, send_without_body)


def is_head_request() -> bool:
    """Return whether the client sent HEAD. An endless stream must then end at once."""
    current = request_context.get()
    return current is not None and current.method == "HEAD"
