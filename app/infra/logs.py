"""Every log line of the process: JSON in production, readable in development, off requests' time.

One line a request, and what the code has to say, each with the id of the request it belongs to. No
header, no query, no body and no parameter of a statement is ever in one.
"""

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

import orjson

from app.infra.exchange import Exchange, request_id
from app.infra.log_writer import LogWriter
from app.settings import LogSettings, Settings

STANDARD_OUTPUT = 1

Line = dict[str, Any]
Render = Callable[[Line], bytes]


class Log:
    """Where a process logs to. Whoever logs does not wait, nor for the rendering."""

    def __init__(
        self, settings: LogSettings, render: Render, descriptor: int = STANDARD_OUTPUT
    ) -> None:
        self.writer = LogWriter(descriptor)
        self._render = render
        self._slow_seconds = settings.slow_seconds

    def request(self, current: Exchange, method: str, path: str) -> None:
        """Note that a request was answered."""
        seconds = current.seconds
        slow = seconds > self._slow_seconds
        line = partial(_request_line, current, method, path, seconds, time.time(), slow)
        self.writer.write(partial(_rendered, self._render, line))

    def record(self, record: logging.LogRecord) -> None:
        """Note what the code has to say."""
        line = partial(_record_line, record, request_id())
        self.writer.write(partial(_rendered, self._render, line))


class LogHandler(logging.Handler):
    """Hands the records of the standard library over."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Neither wait nor fail."""
        self._log.record(record)


def open_log(settings: Settings) -> Log:
    """Send the loggers of `app` to standard output. Those of the server keep their own."""
    automatic = "json" if settings.environment == "production" else "text"
    chosen = automatic if settings.log.format == "auto" else settings.log.format
    log = Log(settings.log, as_json if chosen == "json" else as_text)
    logger = logging.getLogger("app")
    logger.handlers = [LogHandler(log)]
    logger.setLevel(settings.log.level)
    # SQLAlchemy lets a pool log under the name of its class.
    logging.getLogger("app.infra.database.pool").setLevel("WARNING")
    return log


def _rendered(render: Render, line: Callable[[], Line]) -> bytes:
    return render(line())


def _request_line(
    current: Exchange, method: str, path: str, seconds: float, now: float, slow: bool
) -> Line:
    line: Line = {
        "time": datetime.fromtimestamp(now, UTC),
        "level": "WARNING" if slow else "INFO",
        "event": "request",
        "method": method,
        "path": path,
        "route": current.route,
        "status": current.status,
        "seconds": round(seconds, 6),
        "statements": len(current.statements),
        "database_seconds": round(current.database_seconds, 6),
        "cache": current.cache,
        "request_id": current.request_id,
    }
    if slow:
        in_database = current.database_seconds > seconds / 2
        line["slow"] = "the database" if in_database else "the code, or waiting"
    return line


def _record_line(record: logging.LogRecord, current_id: str) -> Line:
    line: Line = {
        "time": datetime.fromtimestamp(record.created, UTC),
        "level": record.levelname,
        "event": record.getMessage(),
        "logger": record.name,
        "request_id": current_id,
    }
    if record.exc_info:
        line["exception"] = logging.Formatter().formatException(record.exc_info)
    return line


def as_json(line: Line) -> bytes:
    """Render a line for machines."""
    return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE, default=str)


def as_text(line: Line) -> bytes:
    """Render a line for a person."""
    if line["event"] == "request":
        parts: list[Any] = [f"{line['status']} {line['method']} {line['path']}"]
        parts += [f"{line['seconds'] * 1e3:.1f} ms", f"{line['statements']} statements"]
        parts += [line["cache"], "slow" in line and f"slow because of {line['slow']}"]
        detail = ", ".join(part for part in parts if part)
    else:
        detail = f"{line['level']} {line['logger']}: {line['event']}"
    text = f"{line['time']:%H:%M:%S} [{line['request_id'][:8]}] {detail}\n"
    if "exception" in line:
        text += f"{line['exception']}\n"
    return text.encode(errors="backslashreplace")
