"""FastAPI's own configuration of OpenTelemetry."""

import os

from fastapi.telemetry import TelemetryConfig

from app.infra.observability.tracing import traces

# OTLP over HTTP is the only exporter that is installed.
SUPPORTED = {
    "OTEL_TRACES_EXPORTER": "otlp",
    "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
}
EXPORT_SECONDS = "2"  # an unreachable collector must not delay a shutdown


def telemetry() -> TelemetryConfig:
    """Return FastAPI's configuration. Metrics and logs have their own ways out of the service."""
    if traces():
        _refuse_unsupported()
        os.environ.setdefault("OTEL_EXPORTER_OTLP_TIMEOUT", EXPORT_SECONDS)
    return {
        "metrics": False,
        "logs": False,
        "operation_spans": False,
        "tracing": traces(),
        "auto_configure": traces(),
    }


def _refuse_unsupported() -> None:
    """End the process with a sentence. FastAPI would only warn, and send no traces."""
    for name, only in SUPPORTED.items():
        if (value := os.environ.get(name, only)) != only:
            raise SystemExit(
                f"The service cannot start. {name} is {value}, but traces can only be sent by "
                f"{only}. Set {name} to {only}."
            )
