"""Gives every request an id: the client's, when it is harmless, else a random one.

The id is in the response, in problems and in every log line of the request.
"""

import random
import re

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.infra.exchange import Exchange, exchange

HEADER = b"x-request-id"
# Bounded, and without anything that means something in a log line or a header.
HARMLESS = re.compile(rb"[A-Za-z0-9._-]{8,64}")


class RequestIdMiddleware:
    """Pure ASGI. Begins the `Exchange` of the request, and sets the header X-Request-ID."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        # No secret: the generator that asks nobody. Each worker has seeded its own.
        current = _accepted(scope) or f"{random.getrandbits(128):032x}"
        header = (HEADER, current.encode())
        exchange.set(Exchange(current))  # the server runs each request in a context of its own

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), header]
            await send(message)

        await self.app(scope, receive, send_with_id)


def _accepted(scope: Scope) -> str | None:
    for name, value in scope["headers"]:
        if name == HEADER:
            return value.decode("ascii") if HARMLESS.fullmatch(value) else None
    return None
