"""Traces, as a collector receives them when the standard variables of OpenTelemetry are set."""

import gzip
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx2
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from app.infra.database.engine import open_engine
from app.infra.observability import tracing
from app.infra.observability.request_context import RequestContext, request_context
from app.infra.observability.tracing import traces
from app.infra.web.telemetry import telemetry
from app.settings import Settings
from dev.address import Address
from dev.server_process import free_port
from dev.servers import Servers
from dev.service import GUNICORN, open_service, wait_until_ready
from tests.features.users.factory import UserFactory

Start = Callable[[dict[str, str]], httpx2.Client]

PATIENCE_SECONDS = 60
CALLER = "4bf92f3577b34da6a3ce929d0e0e4736"


class Collector:
    """The spans that were exported so far."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.url = ""

    def of(self, trace_id: str) -> list[Span]:
        """Return the spans of one trace, in the order in which they began."""
        found = [span for span in self.spans if span.trace_id.hex() == trace_id]
        return sorted(found, key=lambda span: span.start_time_unix_nano)

    def until(self, trace_id: str, count: int) -> list[Span]:
        """Wait until a trace has this many spans."""
        end = time.monotonic() + PATIENCE_SECONDS
        while len(self.of(trace_id)) < count and time.monotonic() < end:
            time.sleep(0.05)
        return self.of(trace_id)


@pytest.fixture
def collector() -> Iterator[Collector]:
    """A collector of OTLP over HTTP."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                for scope in resource.scope_spans:
                    collector.spans.extend(scope.spans)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        collector.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield collector
        server.shutdown()
        thread.join()


@pytest.fixture
def service(settings: Settings, monkeypatch: pytest.MonkeyPatch, clean: None) -> Iterator[Start]:
    """Start the service with more variables, as an operator does."""
    monkeypatch.setenv("WEB_CONCURRENCY", "1")
    monkeypatch.setenv("LOG_FORMAT", "json")
    monkeypatch.setenv("CACHE_NAMESPACE", "traced")
    # On a busy machine Valkey is slow, and the cache would be bypassed.
    monkeypatch.setenv("VALKEY_TIMEOUT_SECONDS", "5")
    monkeypatch.setenv("VALKEY_SLOW_SECONDS", "30")
    url, valkey = settings.database.url, settings.valkey.url
    servers = Servers(url.get_secret_value(), valkey.get_secret_value())
    with ExitStack() as stack:

        def start(variables: dict[str, str]) -> httpx2.Client:
            for name, value in variables.items():
                monkeypatch.setenv(name, value)
            address = Address("127.0.0.1", free_port())
            process = stack.enter_context(open_service(GUNICORN, servers, address))
            wait_until_ready(process, address, 60)
            return stack.enter_context(httpx2.Client(base_url=address.url, timeout=30))

        yield start


def attributes(span: Span) -> dict[str, str]:
    """Return the attributes of a span, as text."""
    return {one.key: one.value.string_value for one in span.attributes}


async def test_a_request_its_statements_and_its_cache_are_one_trace(
    service: Start, collector: Collector, make: UserFactory, capfd: pytest.CaptureFixture[str]
) -> None:
    user = await make.user()
    client = service(
        {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "100"}
    )
    path = f"/v1/users/{user.id}"
    parent = {"traceparent": f"00-{CALLER}-00f067aa0ba902b7-01"}
    assert client.get(path, headers=parent).headers["x-cache"] == "MISS"

    request, *inner = collector.until(CALLER, 4)
    assert request.name == "GET /v1/users/{user_id}"
    assert request.parent_span_id.hex() == "00f067aa0ba902b7"
    assert [span.name for span in inner] == ["cache look-up", "SELECT", "cache fill"]
    assert {span.parent_span_id for span in inner} == {request.span_id}
    statement = attributes(inner[1])["db.query.text"]
    assert "FROM users" in statement
    assert str(user.id) not in statement.partition("WHERE")[2].split()

    change = client.patch("/v1/users/me", json={"name": "x"}, headers=make.headers(user))
    assert change.is_success, change.text
    client.get(path)
    hit = client.get(path)
    lines = [json.loads(line) for line in logged(capfd, 4)]
    assert hit.headers["x-cache"] == "HIT-L1"
    written = [span.name for span in collector.until(lines[1]["trace_id"], 4)]
    assert written[0] == "PATCH /v1/users/me"
    assert written[-1] == "cache invalidation"
    [request] = collector.until(lines[3]["trace_id"], 1)
    assert request.name == "GET /v1/users/{user_id}"
    assert attributes(request)["cache.result"] == "HIT-L1"
    assert attributes(request)["request.id"] == hit.headers["x-request-id"]
    assert lines[0]["trace_id"] == CALLER


def logged(capfd: pytest.CaptureFixture[str], count: int) -> list[str]:
    """Wait for this many lines about requests to /v1."""
    lines: list[str] = []
    end = time.monotonic() + PATIENCE_SECONDS
    while len(lines) < count and time.monotonic() < end:
        lines += [line for line in capfd.readouterr().out.splitlines() if '"path":"/v1' in line]
        time.sleep(0.05)
    return lines


async def test_span_of_a_failed_statement_does_not_contain_its_values(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(tracing, "_tracer", provider.get_tracer("test"))
    engine = open_engine(settings.database, "test")
    current = RequestContext("request", "GET", "/")
    current.span = provider.get_tracer("test").start_span("request")
    token = request_context.set(current)
    try:
        async with engine.connect() as connection:
            with pytest.raises(DBAPIError):
                await connection.execute(text("SELECT CAST(:secret AS int)"), {"secret": "s3cret"})
    finally:
        request_context.reset(token)
        await engine.dispose()
    [failed] = exporter.get_finished_spans()
    assert (failed.name, failed.status.status_code) == ("SELECT", StatusCode.ERROR)
    assert "s3cret" not in failed.to_json()


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, False),
        ({"OTEL_SERVICE_NAME": "service"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4318/v1/traces"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "x", "OTEL_TRACES_EXPORTER": "none"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "x", "OTEL_SDK_DISABLED": "TRUE"}, False),
    ],
)
def test_the_standard_variables_switch_traces_on_and_off(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: bool
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert traces() is expected


def test_unsupported_trace_protocol_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    with pytest.raises(SystemExit, match=r"PROTOCOL is grpc, .* http/protobuf"):
        telemetry()
