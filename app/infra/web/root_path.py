"""Puts SERVER_ROOT_PATH before the paths in `Location` and `Link`.

It is for a proxy that serves this service below a prefix and strips the prefix from requests. The
setting alone decides: a header of the request, such as X-Forwarded-Prefix, would reach answers that
the cache keeps for everybody.
"""

import re
from collections.abc import Awaitable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Not two slashes: that would be another host.
PATH = re.compile(rb"/(?!/)")
PATH_IN_LINK = re.compile(rb"</(?!/)")


class RootPathMiddleware:
    """Pure ASGI, outside of the response cache: what is kept does not depend on the setting."""

    def __init__(self, app: ASGIApp, root_path: str) -> None:
        self.app = app
        self._prefix = root_path.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        def send_prefixed(message: Message) -> Awaitable[None]:
            if message["type"] == "http.response.start":
                headers = [self._prefixed(*header) for header in message.get("headers", ())]
                message = {**message, "headers": headers}
            return send(message)

        await self.app(scope, receive, send_prefixed if scope["type"] == "http" else send)

    def _prefixed(self, name: bytes, value: bytes) -> tuple[bytes, bytes]:
        if name == b"location" and PATH.match(value):
            return name, self._prefix + value
        if name == b"link":
            return name, PATH_IN_LINK.sub(b"<" + self._prefix + b"/", value)
        return name, value
