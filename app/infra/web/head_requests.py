"""Answers HEAD wherever there is a GET: the same headers, without the body (RFC 9110, §9.3.2)."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

IS_HEAD = "app.is_head"  # for what would go on for as long as somebody listens


class HeadRequestMiddleware:
    """Pure ASGI. What stands inside it sees a GET."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self.app(scope, receive, send)
            return

        async def send_without_body(message: Message) -> None:
            scope["method"] = "HEAD"  # the server asks, to know whether a body is to follow
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        scope["method"], scope[IS_HEAD] = "GET", True
        await self.app(scope, receive, send_without_body)
