"""OpenTelemetry traces: FastAPI's span for each request, and below it spans for database and cache.

Traces are off unless the standard variables name a collector. Spans contain neither the parameters
of statements nor cached content.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry import propagate, trace
from opentelemetry.trace import SpanKind, StatusCode

from app.infra.observability.request_context import RequestContext, request_context

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")

_tracer = trace.get_tracer("app")


def traces() -> bool:
    """Return whether the standard variables switch traces on."""
    off = (
        os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
        or os.environ.get("OTEL_TRACES_EXPORTER") == "none"
    )
    return not off and any(map(os.environ.get, ENDPOINTS))


@contextmanager
def span(name: str, **attributes: str) -> Iterator[trace.Span]:
    """Run the block in a span below the span of the request."""
    started = start_span(name, attributes)
    try:
        yield started
    except BaseException as error:
        end_span(started, error)
        raise
    end_span(started)


@contextmanager
def job_span(current: RequestContext) -> Iterator[None]:
    """Run a job in a span of its own, above the spans for its statements."""
    if not traces():
        yield
        return
    current.span = started = _tracer.start_span(current.path, kind=SpanKind.CONSUMER)
    current.trace_id = trace.format_trace_id(started.get_span_context().trace_id)
    try:
        yield
    except BaseException as error:
        end_span(started, error)
        raise
    end_span(started)


def start_span(name: str, attributes: dict[str, str]) -> trace.Span:
    """Start a span below the span of the request. Outside a request, the span records nothing."""
    current = request_context.get()
    if current is None or current.span is None:
        return trace.INVALID_SPAN
    # The parent is named, because a shared load does not run in the context of the request.
    parent = trace.set_span_in_context(current.span)
    return _tracer.start_span(name, parent, kind=SpanKind.CLIENT, attributes=attributes)


def trace_headers(started: trace.Span) -> dict[str, str]:
    """Return the headers with which another service continues the trace."""
    headers: dict[str, str] = {}
    propagate.inject(headers, trace.set_span_in_context(started))
    return headers


def end_span(started: trace.Span, error: BaseException | None = None) -> None:
    if error is not None:
        # Only the type of the error: its text may contain values of the request.
        started.set_attribute("error.type", type(error).__qualname__)
        started.set_status(StatusCode.ERROR)
    started.end()
