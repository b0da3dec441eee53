"""The last resort: an exception that nobody expected becomes a 500 problem, and goes no further.

An exception that reaches the server makes it close the keep-alive connection unannounced, and the
client's next request fails. So it ends here, unless the response has begun: a truncated answer must
not look complete.
"""

import asyncio
import logging
from collections.abc import Awaitable

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import Unavailable
from app.infra.observability.request_context import request_context
from app.infra.web.problems import problem, problem_of

logger = logging.getLogger(__name__)

CLIENT_LEFT = 499  # nobody is sent it: what logs and metrics call a request that was broken off


def _is_not_cancelled(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, asyncio.CancelledError)


# Uvicorn logs a traceback for each request that is cancelled because the server ends. Such a
# request has been answered below.
logging.getLogger("uvicorn.error").addFilter(_is_not_cancelled)


class UnhandledErrorMiddleware:
    """Pure ASGI, next to the request id, which it needs, and inside of those who count."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        def watched_send(message: Message) -> Awaitable[None]:
            nonlocal started
            started = True
            return send(message)

        try:
            await self.app(scope, receive, watched_send)
        except ClientDisconnect:
            # It left while we read its body: there is nobody to answer.
            if (current := request_context.get()) is not None:
                current.status = CLIENT_LEFT
        except asyncio.CancelledError:
            # The server ends, and has waited for as long as it may.
            if not started:
                ends = Unavailable("The server is ending.")
                await problem_of(scope, ends)(scope, receive, send)
            raise
        except Exception:
            logger.exception("Unhandled exception")
            if started:
                if (current := request_context.get()) is not None:
                    current.status = 500  # whatever the answer began with, it was not given
                raise
            response = problem(scope, 500, "internal_error", "Something went wrong on our side.")
            await response(scope, receive, send)
