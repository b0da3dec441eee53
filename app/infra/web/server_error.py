"""Turns an unexpected exception into a 500 problem, and lets none reach the server.

After an exception Uvicorn closes the keep-alive connection, and the client's next request fails.
Only when the response has started is the exception passed on: closing the connection then shows the
client that the response is incomplete.
"""

import asyncio
import logging

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from app.errors import Unavailable
from app.infra.observability.request_context import request_context
from app.infra.web.problems import problem_of, unexpected_error

logger = logging.getLogger(__name__)

SERVICE_UNAVAILABLE = 503
CLIENT_CLOSED_REQUEST = 499  # for logs and metrics; no response has this status


class ResponseCutOff(Exception):
    """A response that has started cannot be completed. Its connection has to be closed.

    Logs and metrics show `status`, whatever status was sent.
    """

    status = SERVICE_UNAVAILABLE


class ClientTooSlow(ResponseCutOff):
    """The client does not read its response."""

    status = CLIENT_CLOSED_REQUEST


def _is_fault(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, asyncio.CancelledError | ResponseCutOff)


# Uvicorn logs a traceback for each request that it cancels at shutdown. They are answered below.
# It logs one for each response that is cut off as well.
logging.getLogger("uvicorn.error").addFilter(_is_fault)


class UnhandledErrorMiddleware:
    """Stands inside `ObservationMiddleware`, which counts and logs requests, errors included."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        # A route may call an application, which has another request context.
        response = request_context.get()
        assert response is not None
        try:
            await self.app(scope, receive, send)
        except ClientDisconnect:  # while its body was read: there is no one to answer
            response.status = CLIENT_CLOSED_REQUEST
        except ResponseCutOff as cut:
            _log_cut_off(cut)
            if response.has_started:
                response.status = cut.status
                raise
            # It was captured for the cache.
            error = Unavailable("The response could not be completed.")
            await problem_of(scope, error)(scope, receive, send)
        except asyncio.CancelledError:  # the graceful timeout of the server is over
            if not response.has_started:
                error = Unavailable("The server is shutting down.")
                await problem_of(scope, error)(scope, receive, send)
            raise
        except Exception:
            logger.exception("Unhandled exception")
            if response.is_complete:  # Starlette answers, and then raises the exception again
                return
            if response.has_started:
                response.status = 500  # for logs and metrics, whatever status was sent
                raise
            await unexpected_error(scope)(scope, receive, send)


def _log_cut_off(cut: ResponseCutOff) -> None:
    if cut.args:
        logger.warning("A response was cut off: %s", cut)
