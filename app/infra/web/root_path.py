"""Adds SERVER_ROOT_PATH to the paths in the headers `Location` and `Link`.

It is for a proxy that serves this service below a prefix, and removes the prefix from requests. The
prefix comes from the setting only. If it came from a request header, such as X-Forwarded-Prefix, a
client could change cached answers.
"""

import re
from collections.abc import Awaitable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Two slashes would be the name of another host.
PATH = re.compile(rb"/(?!/)")
PATH_IN_LINK = re.compile(rb"</(?!/)")


class RootPathMiddleware:
    """Stands outside the response cache, so that cached answers do not contain the prefix."""

    def __init__(self, app: ASGIApp, root_path: str) -> None:
        self.app = app
        self._prefix = root_path.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        def send_with_prefix(message: Message) -> Awaitable[None]:
            if message["type"] == "http.response.start":
                headers = [self._add_prefix(*header) for header in message.get("headers", ())]
                message = {**message, "headers": headers}
            return send(message)

        await self.app(scope, receive, send_with_prefix if scope["type"] == "http" else send)

    def _add_prefix(self, name: bytes, value: bytes) -> tuple[bytes, bytes]:
        if name == b"location" and PATH.match(value):
            return name, self._prefix + value
        if name == b"link":
            return name, PATH_IN_LINK.sub(b"<" + self._prefix + b"/", value)
        return name, value
