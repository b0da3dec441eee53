"""OpenTelemetry: a span for each request, FastAPI's own, and below it ours for database and cache.

Off unless the standard variables name where traces go; then nothing of it is called. What a
statement was given, and what is kept in the cache, is in no span.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fastapi.telemetry import TelemetryConfig
from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode
from sqlalchemy import Engine, event

from app.infra.observability.request_context import request_context

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")

# OTLP over HTTP is the one way that needs nothing more than is installed.
ONLY = {
    "OTEL_TRACES_EXPORTER": "otlp",
    "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
}
EXPORT_SECONDS = "2"

_tracer = trace.get_tracer("app")


def traces() -> bool:
    """Whether the standard variables ask for traces."""
    off = (
        os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
        or os.environ.get("OTEL_TRACES_EXPORTER") == "none"
    )
    return not off and any(map(os.environ.get, ENDPOINTS))


def telemetry() -> TelemetryConfig:
    """Return what FastAPI is to tell. A collector that is away does not hold a shutdown up.

    Of OpenTelemetry's three signals, traces: numbers and lines are told otherwise.
    """
    if traces():
        _refuse_other_ways()
        os.environ.setdefault("OTEL_EXPORTER_OTLP_TIMEOUT", EXPORT_SECONDS)
    return {
        "metrics": False,
        "logs": False,
        "operation_spans": False,
        "tracing": traces(),
        "auto_configure": traces(),
    }


def _refuse_other_ways() -> None:
    """End the process with a sentence: FastAPI would warn, and tell nothing."""
    for name, only in ONLY.items():
        if (value := os.environ.get(name, only)) != only:
            raise SystemExit(f"{name} is {value}: traces are sent by {only} alone. Set it so.")


@contextmanager
def span(name: str, **attributes: str) -> Iterator[trace.Span]:
    """Make a span below that of the request, if there is one."""
    made = _start(name, attributes)
    try:
        yield made
    except BaseException as error:
        _fail(made, error)
        raise
    finally:
        made.end()


def trace_statements(engine: Engine) -> None:
    """Make a span for each statement."""
    event.listen(engine, "before_cursor_execute", _before)
    event.listen(engine, "after_cursor_execute", _after)
    event.listen(engine, "handle_error", _failed)


def _before(
    _connection: Any, _cursor: Any, statement: str, _parameters: Any, context: Any, _many: bool
) -> None:
    operation = statement.split(maxsplit=1)[0].upper()
    attributes = {"db.system.name": "postgresql", "db.operation.name": operation}
    context.span = _start(operation, attributes | {"db.query.text": statement})


def _after(
    _connection: Any, _cursor: Any, _statement: str, _parameters: Any, context: Any, _many: bool
) -> None:
    context.span.end()


def _failed(error: Any) -> None:
    if (failed := getattr(error.execution_context, "span", None)) is not None:
        _fail(failed, error.original_exception)
        failed.end()


def _start(name: str, attributes: dict[str, str]) -> trace.Span:
    current = request_context.get()
    if current is None or current.span is None:  # what the process does for itself
        return trace.INVALID_SPAN
    # Named and not taken from the context: a load that many wait for runs in one of its own.
    parent = trace.set_span_in_context(current.span)
    return _tracer.start_span(name, parent, kind=SpanKind.CLIENT, attributes=attributes)


def _fail(failed: trace.Span, error: BaseException) -> None:
    failed.set_attribute("error.type", type(error).__qualname__)  # its text may tell values
    failed.set_status(StatusCode.ERROR)
