"""Runs a request once more when the database failed it in a way that left nothing behind.

A connection that died before the commit was sent, a serialization failure and a deadlock all mean
that the server has undone the transaction, and no byte of a response has been sent. The exception
handlers raise `TryAgain` for these; here, below them, the same request is run from its beginning.
"""

import asyncio
import random

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.infra.database.retry import CommitTracker, track_commits

FIRST_ATTEMPT = "app.first_attempt"


class TryAgain(Exception):
    """Nothing was committed and nothing was sent: the request may be run again."""


def may_be_tried_again(scope: Scope) -> bool:
    """Whether this is the first attempt of a request below `RetryOnce`, and committed nothing."""
    attempt: CommitTracker | None = scope.get(FIRST_ATTEMPT)
    return attempt is not None and not attempt.has_committed


class RetryOnce:
    """Pure ASGI, between the exception handlers and the routes."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        received: list[Message] = []

        async def receive_and_keep() -> Message:
            received.append(message := await receive())
            return message

        async def receive_again() -> Message:
            return received.pop(0) if received else await receive()

        scope[FIRST_ATTEMPT] = track_commits()
        try:
            await self.app(scope, receive_and_keep, send)
        except TryAgain:
            # Whoever we collided with goes first.
            await asyncio.sleep(random.uniform(0.01, 0.05))  # noqa: S311 - jitter
            del scope[FIRST_ATTEMPT]
            await self.app(scope, receive_again, send)
