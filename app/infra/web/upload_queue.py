"""Refuses uploads when too many wait, before anything else is done for them.

When many uploads arrive at once, most must be refused. Each refusal delays the requests of other
clients, so it comes before the rate limits, which ask Valkey.
"""

from contextlib import ExitStack

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import Unavailable
from app.infra.observability.metrics import REFUSED
from app.infra.web.problems import refuse
from app.infra.web.routing import route_table_of

TOO_MANY_UPLOADS = "Too many files are being uploaded. Try again in a moment."


class UploadQueueMiddleware:
    """Pure ASGI. At most `limit` uploads wait until their bodies are read. Others get 503."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self.app = app
        self._limit = limit
        self._waiting = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] == "GET":
            await self.app(scope, receive, send)
            return
        route, found = route_table_of(scope).find(scope)
        if route is None or not route.takes_uploads or not route.takes(scope["method"]):
            await self.app(scope, receive, send)
        elif self._waiting >= self._limit:
            REFUSED.labels("uploads").inc()
            scope.update(found)  # the problem depends on the endpoint
            await refuse(Unavailable(TOO_MANY_UPLOADS), scope, receive, send)
        else:
            await self._wait(scope, receive, send)

    async def _wait(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count an upload until the application begins to read it, or has ended."""
        waiting = ExitStack()

        async def begin_to_receive() -> Message:
            waiting.close()
            return await receive()

        self._waiting += 1
        waiting.callback(self._leave)
        with waiting:
            await self.app(scope, begin_to_receive, send)

    def _leave(self) -> None:
        self._waiting -= 1
