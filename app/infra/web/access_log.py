"""Writes one line for each request, when it has been answered."""

from starlette.types import ASGIApp, Receive, Scope, Send

from app.infra.exchange import exchange
from app.infra.logs import Log


class AccessLogMiddleware:
    """Pure ASGI. The line is put together and written by the thread of the log."""

    def __init__(self, app: ASGIApp, log: Log) -> None:
        self.app = app
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        current = exchange.get()
        if scope["type"] != "http" or current is None:
            await self.app(scope, receive, send)
            return
        method = scope["method"]
        try:
            await self.app(scope, receive, send)
        finally:
            self._log.request(current, method, scope["path"])
