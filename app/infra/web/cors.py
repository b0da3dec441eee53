"""CORS: Starlette's middleware, with the headers that this API uses.

No credentials are allowed, because the API has no cookies: clients send a token in a header.
"""

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp

from app.infra.observability.request_context import request_context
from app.infra.web.problems import code_of, problem
from app.infra.web.settings import CorsSettings

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
REQUEST_HEADERS = (
    *("Authorization", "Cache-Control", "Idempotency-Key", "If-Match", "If-None-Match"),
    *("Last-Event-ID", "X-Request-ID"),
    # Tracing libraries in browsers add these to every request.
    *("traceparent", "tracestate", "baggage", "sentry-trace"),
)
RESPONSE_HEADERS = (
    *("Age", "ETag", "Idempotent-Replayed", "Link", "Location", "RateLimit", "RateLimit-Policy"),
    *("Retry-After", "X-Cache", "X-Request-ID"),
)


class CorsMiddleware(CORSMiddleware):
    """Stands outside the response cache, because its headers depend on the caller's origin."""

    def __init__(self, app: ASGIApp, settings: CorsSettings) -> None:
        more_headers = settings.headers.split(",") if settings.headers else []
        super().__init__(
            app,
            allow_origins=settings.origins.split(","),
            allow_methods=METHODS,
            allow_headers=(*REQUEST_HEADERS, *more_headers),
            expose_headers=RESPONSE_HEADERS,
        )

    def preflight_response(self, request_headers: Headers) -> Response:
        """Answer a preflight request. A refusal is a problem, like every other error."""
        response = super().preflight_response(request_headers)
        if response.status_code == 200:
            return response
        current = request_context.get()
        scope = {"path": current.path if current else ""}
        detail = f"{bytes(response.body).decode()}."
        return problem(scope, response.status_code, code_of(response.status_code), detail)
