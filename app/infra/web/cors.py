"""Which scripts of other origins may read answers: Starlette's layer, with what this API uses.

There are no cookies: whoever has a token sends it in a header.
"""

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp

from app.infra.observability.request_context import request_context
from app.infra.web.problems import code_of, problem
from app.infra.web.settings import CorsSettings

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
SENT = (
    *("Authorization", "Cache-Control", "If-Match", "If-None-Match", "Last-Event-ID"),
    "X-Request-ID",
    # Without these, a page whose requests are traced could not call the API at all.
    *("traceparent", "tracestate", "baggage", "sentry-trace"),
)
SHOWN = ("Age", "ETag", "Link", "Location", "Retry-After", "X-Cache", "X-Request-ID")


class CorsMiddleware(CORSMiddleware):
    """Says what it refuses in the form of every other error."""

    def preflight_response(self, request_headers: Headers) -> Response:
        """Answer what a browser asks before it sends a request."""
        response = super().preflight_response(request_headers)
        if response.status_code == 200:
            return response
        current = request_context.get()
        scope = {"path": current.path if current else ""}
        detail = f"{bytes(response.body).decode()}."
        return problem(scope, response.status_code, code_of(response.status_code), detail)


def cors(app: ASGIApp, settings: CorsSettings) -> ASGIApp:
    """Stand outside of the response cache, so that a hit has the headers of whoever asks for it."""
    more = settings.headers.split(",") if settings.headers else []
    return CorsMiddleware(
        app,
        allow_origins=settings.origins.split(","),
        allow_methods=METHODS,
        allow_headers=(*SENT, *more),
        expose_headers=SHOWN,
    )
