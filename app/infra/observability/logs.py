"""Writes the log of the process to standard output: JSON in production, text in development.

There is one line for each request, and one for each record of Python's `logging`. Each has the id
of its request. A line never contains headers, queries, bodies or parameters of statements.
"""

import json
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import orjson

from app.infra.observability.log_fields import extra_fields
from app.infra.observability.log_writer import LogWriter
from app.infra.observability.request_context import RequestContext, request_context, request_id
from app.infra.observability.settings import LogSettings

STANDARD_OUTPUT = 1
MAX_PATH, MAX_STATEMENT, MAX_ADDRESS = 512, 1_000, 64
# The fields of a record's line. All other fields of such a line were passed as `extra`.
RECORD_FIELDS = ("time", "level", "event", "logger", "request_id", "trace_id", "exception")

Line = dict[str, Any]
Render = Callable[[Line], bytes]


class Log(logging.Handler):
    """Renders lines at once, in about a microsecond each, and leaves the writing to a thread."""

    def __init__(
        self, settings: LogSettings, render: Render, descriptor: int = STANDARD_OUTPUT
    ) -> None:
        super().__init__()
        self.writer = LogWriter(descriptor)
        self._render = render
        self._slow_seconds = settings.slow_seconds
        self._shows_client = settings.client_address

    def request(self, current: RequestContext) -> None:
        """Log a request that has been answered."""
        line = _request_line(current, self._slow_seconds)
        if self._shows_client:
            # A proxy's X-Forwarded-For can contain any text.
            line["client"] = current.client and ascii(current.client[:MAX_ADDRESS])[1:-1]
        self.writer.write(self._render(line))

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self.writer.write(self._render(_record_line(record)))
        except Exception:
            self.handleError(record)

    def flush(self) -> None:
        """Write what waits. `logging` calls this when the process exits."""
        self.writer.close()


def open_log(settings: LogSettings, *, is_production: bool) -> Log:
    """Log the records of this process. The master of Gunicorn keeps its own log."""
    automatic = "json" if is_production else "text"
    chosen = automatic if settings.format == "auto" else settings.format
    log = Log(settings, as_json if chosen == "json" else as_text)
    logging.getLogger().addHandler(log)
    for name in ("app", "coherent_cache", "graceful_gunicorn"):
        logging.getLogger(name).setLevel(settings.level)
    for name in ("uvicorn", "uvicorn.error"):  # their own handlers would block while writing
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [], True
    # SQLAlchemy logs the events of a pool under the name of the module that defines its class.
    logging.getLogger("app.infra.database.pool").setLevel("WARNING")
    return log


def _request_line(current: RequestContext, slow_seconds: float) -> Line:
    line: Line = {
        "time": datetime.now(UTC),
        "level": "INFO",
        "event": "request",
        "method": current.method,
        "path": current.path[:MAX_PATH],
        "route": current.route,
        "status": current.status,
        "seconds": round(current.seconds, 6),
        "statements": current.statement_count,
        "database_seconds": current.database_seconds and round(current.database_seconds, 6),
        "cache": current.cache,
        "request_id": current.request_id,
        "trace_id": current.trace_id,
    }
    if current.seconds > slow_seconds:
        line |= {"level": "WARNING", "slow": _cause(current)}
    return line


def _cause(current: RequestContext) -> str:
    """Return what took most of the time."""
    database, waiting = current.database_seconds, current.pool_wait_seconds
    upstream = current.upstream_seconds
    most = max(database, waiting, upstream)
    if most <= current.seconds - database - waiting - upstream:
        return "application code or other I/O"
    if most == waiting:
        return f"waiting {waiting:.3f} s for a database connection"
    if most == upstream:
        seconds = current.slowest_upstream_seconds
        return f"other services, {seconds:.3f} s of it: {current.slowest_upstream}"
    statement = " ".join(current.slowest_statement.split())
    return f"the database, {current.slowest_seconds:.3f} s of it: {statement[:MAX_STATEMENT]}"


def _record_line(record: logging.LogRecord) -> Line:
    current = request_context.get()
    line: Line = {
        "time": datetime.fromtimestamp(record.created, UTC),
        "level": record.levelname,
        "event": record.getMessage(),
        "logger": record.name,
        "request_id": request_id(),
        "trace_id": None if current is None else current.trace_id,
    }
    for name, value in extra_fields(record).items():
        line[f"extra_{name}" if name in RECORD_FIELDS else name] = value
    if record.exc_info:
        line["exception"] = logging.Formatter().formatException(record.exc_info)
    return line


def as_json(line: Line) -> bytes:
    try:
        # Adding the newline copies the line. The object that orjson returns occupies 4 kB.
        return orjson.dumps(line) + b"\n"
    except TypeError:  # text that is not Unicode
        return json.dumps(line, default=str).encode() + b"\n"


def as_text(line: Line) -> bytes:
    if "logger" not in line:
        path = line["path"] if line["path"].isprintable() else ascii(line["path"])
        parts: list[Any] = [f"{line['status']} {line['method']} {path}"]
        parts += [f"{line['seconds'] * 1e3:.1f} ms", f"{line['statements']} statements"]
        parts += [line["cache"], "slow" in line and f"slow because of {line['slow']}"]
        parts += [line.get("client") and f"from {line['client']}"]
        detail = ", ".join(part for part in parts if part)
    else:
        detail = f"{line['level']} {line['logger']}: {line['event']}"
        extra = [
            f"{ascii(name)[1:-1]}={line[name]!a}" for name in line if name not in RECORD_FIELDS
        ]
        detail = " ".join([detail, *extra])
    text = f"{line['time']:%H:%M:%S} [{line['request_id'][:8]}] {detail}\n"
    if "exception" in line:
        text += f"{line['exception']}\n"
    return text.encode(errors="backslashreplace")
