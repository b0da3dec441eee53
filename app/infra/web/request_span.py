"""Stores FastAPI's span of a request in its context, for log lines and for the spans below it."""

from collections.abc import Awaitable

from opentelemetry import trace
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.infra.observability.request_context import request_context


class RequestSpanMiddleware:
    """Pure ASGI. It is only installed when traces are on."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        current = request_context.get()
        if scope["type"] != "http" or current is None:
            await self.app(scope, receive, send)
            return
        current.span = request_span = trace.get_current_span()
        if (context := request_span.get_span_context()).is_valid:
            current.trace_id = trace.format_trace_id(context.trace_id)

        def send_with_attributes(message: Message) -> Awaitable[None]:
            if message["type"] == "http.response.start":
                if current.route is not None:  # a cache hit, which FastAPI's routes do not see
                    request_span.update_name(f"{current.method} {current.route}")
                    request_span.set_attribute("http.route", current.route)
                if current.cache is not None:
                    request_span.set_attribute("cache.result", current.cache)
                if scope["query_string"]:
                    request_span.set_attribute("url.query", "REDACTED")  # it may contain secrets
                request_span.set_attribute("request.id", current.request_id)
            return send(message)

        await self.app(scope, receive, send_with_attributes)
