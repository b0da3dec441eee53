"""Runs a request once more if the database failed it and no change was committed.

A connection that died before the commit was sent, a serialization failure and a deadlock all mean
that the server has undone the transaction, and no byte of a response has been sent. The exception
handlers raise `RetryRequest` for these. The middleware runs inside them and starts over.
"""

import asyncio
import random

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.infra.observability.request_context import request_context


class RetryRequest(Exception):
    """Nothing was committed and nothing was sent, so the request may run again."""


def may_retry() -> bool:
    """Whether this is the first attempt of a request, and it has not committed anything."""
    current = request_context.get()
    return current is not None and current.may_retry


class RequestRetryMiddleware:
    """Pure ASGI, between the exception handlers and the routes."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        current = request_context.get()
        if scope["type"] != "http" or current is None:
            await self.app(scope, receive, send)
            return
        received: list[Message] = []

        async def receive_and_keep() -> Message:
            received.append(message := await receive())
            return message

        async def receive_again() -> Message:
            return received.pop(0) if received else await receive()

        current.may_retry = True
        unrouted = dict(scope)  # routing changes the scope
        try:
            await self.app(scope, receive_and_keep, send)
        except RetryRequest:
            current.may_retry = False
            # The request that we collided with goes first.
            await asyncio.sleep(random.uniform(0.01, 0.05))  # noqa: S311 - jitter
            scope.clear()
            scope.update(unrouted)
            await self.app(scope, receive_again, send)
