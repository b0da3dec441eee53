"""Every log line of the process: JSON in production, readable in development, off requests' time.

A line is rendered where it is said, which takes about a microsecond; a thread writes it. One line a
request, and what the code has to say, each with the id of the request it belongs to and with what
was passed as `extra`. No header, no query, no body and no parameter of a statement is ever in one.
"""

import atexit
import json
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import orjson

from app.infra.observability.log_fields import extra_of
from app.infra.observability.log_writer import LogWriter
from app.infra.observability.request_context import RequestContext, request_context, request_id
from app.infra.observability.settings import LogSettings

STANDARD_OUTPUT = 1
MOST_PATH, MOST_STATEMENT, MOST_ADDRESS = 512, 1_000, 64
LEFT_TO_ROOT = ("uvicorn", "uvicorn.error")
# The names in a line of what the code says; others in it are of `extra`.
OF_RECORDS = ("time", "level", "event", "logger", "request_id", "trace_id", "exception")

Line = dict[str, Any]
Render = Callable[[Line], bytes]


class Log:
    """Where a process logs to. Whoever logs does not wait for the writing."""

    def __init__(
        self, settings: LogSettings, render: Render, descriptor: int = STANDARD_OUTPUT
    ) -> None:
        self.writer = LogWriter(descriptor)
        self._render = render
        self._slow_seconds = settings.slow_seconds
        self._shows_client = settings.client_address

    def request(self, current: RequestContext) -> None:
        """Note that a request was answered."""
        line = _request_line(current, self._slow_seconds)
        if self._shows_client:
            # A proxy's X-Forwarded-For can hold any text.
            line["client"] = current.client and ascii(current.client[:MOST_ADDRESS])[1:-1]
        self.writer.write(self._render(line))

    def record(self, record: logging.LogRecord) -> None:
        """Note what the code has to say."""
        self.writer.write(self._render(_record_line(record)))


class LogHandler(logging.Handler):
    """Hands the records of the standard library over."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Neither wait nor fail."""
        try:
            self._log.record(record)
        except Exception:
            self.handleError(record)


def open_log(settings: LogSettings, *, is_production: bool) -> Log:
    """Send what this process has to say to standard output. Gunicorn's master has its own way."""
    automatic = "json" if is_production else "text"
    chosen = automatic if settings.format == "auto" else settings.format
    log = Log(settings, as_json if chosen == "json" else as_text)
    atexit.register(log.writer.close)
    logging.getLogger().addHandler(LogHandler(log))
    logging.getLogger("app").setLevel(settings.level)
    for name in LEFT_TO_ROOT:  # they would write at once, and wait for whoever reads
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [], True
    # SQLAlchemy lets a pool log under the name of its class.
    logging.getLogger("app.infra.database.pool").setLevel("WARNING")
    return log


def _request_line(current: RequestContext, slow_seconds: float) -> Line:
    line: Line = {
        "time": datetime.now(UTC),
        "level": "INFO",
        "event": "request",
        "method": current.method,
        "path": current.path[:MOST_PATH],
        "route": current.route,
        "status": current.status,
        "seconds": round(current.seconds, 6),
        "statements": len(current.statements),
        "database_seconds": current.database_seconds and round(current.database_seconds, 6),
        "cache": current.cache,
        "request_id": current.request_id,
        "trace_id": current.trace_id,
    }
    if current.seconds > slow_seconds:
        line |= {"level": "WARNING", "slow": _cause(current)}
    return line


def _cause(current: RequestContext) -> str:
    """Say what took most of the time."""
    database, waited = current.database_seconds, current.pool_wait_seconds
    rest = current.seconds - database - waited
    if waited > max(database, rest):
        return f"waiting {waited:.3f} s for a database connection"
    if database > rest:
        statement = " ".join(current.slowest_statement.split())
        return f"the database, {current.slowest_seconds:.3f} s of it: {statement[:MOST_STATEMENT]}"
    return "the code, or what it waited for"


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
    for name, value in extra_of(record).items():
        line[f"extra_{name}" if name in OF_RECORDS else name] = value
    if record.exc_info:
        line["exception"] = logging.Formatter().formatException(record.exc_info)
    return line


def as_json(line: Line) -> bytes:
    """Render a line for machines."""
    try:
        # The sum is a copy of the right size: what orjson returns holds 4 kB while it is kept.
        return orjson.dumps(line) + b"\n"
    except TypeError:  # text that is not Unicode
        return json.dumps(line, default=str).encode() + b"\n"


def as_text(line: Line) -> bytes:
    """Render a line for a person."""
    if "logger" not in line:
        path = line["path"] if line["path"].isprintable() else ascii(line["path"])
        parts: list[Any] = [f"{line['status']} {line['method']} {path}"]
        parts += [f"{line['seconds'] * 1e3:.1f} ms", f"{line['statements']} statements"]
        parts += [line["cache"], "slow" in line and f"slow because of {line['slow']}"]
        parts += [line.get("client") and f"from {line['client']}"]
        detail = ", ".join(part for part in parts if part)
    else:
        detail = f"{line['level']} {line['logger']}: {line['event']}"
        extra = [f"{ascii(name)[1:-1]}={line[name]!a}" for name in line if name not in OF_RECORDS]
        detail = " ".join([detail, *extra])
    text = f"{line['time']:%H:%M:%S} [{line['request_id'][:8]}] {detail}\n"
    if "exception" in line:
        text += f"{line['exception']}\n"
    return text.encode(errors="backslashreplace")
