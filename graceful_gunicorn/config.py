"""The configuration of a worker, which Gunicorn's configuration file provides."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

Headers = list[tuple[bytes, bytes]]


class EarlyError(NamedTuple):
    """The response to a request that is refused before it reaches the application.

    The headers must include Content-Length.
    """

    headers: Headers
    body: bytes


def plain_error(_status: int, _code: str, detail: str, _path: str) -> EarlyError:
    """Render an error as one line of plain text."""
    body = f"{detail}\n".encode()
    length = (b"content-length", b"%d" % len(body))
    return EarlyError([(b"content-type", b"text/plain; charset=utf-8"), length], body)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """The limits on requests, the timeouts of a shutdown, and the callbacks into the application.

    Checked reload:
        `check_command` prints the configuration if the service can start, as
        `gunicorn --print-config` does. A reload (SIGHUP) is refused if this command fails.

    Graceful shutdown:
        When the instance shuts down, it accepts connections for `drain_seconds` more. Gunicorn
        kills the workers `graceful_timeout_seconds` after the signal. Requests that are still
        running `closing_seconds` before that are cancelled.

    Limits on a request:
        A head may have `header_fields` fields and `header_bytes` bytes, and must arrive within
        `header_seconds`. `header_bytes` also limits the trailers and chunk extensions of a body. A
        body must arrive within `body_seconds` after its head. A client that does not read is
        disconnected when the write buffer of its connection has been full for `write_seconds`, or
        when the connection has been closing for as long.

    Callbacks:
        `render_error(status, code, detail, path)` renders the response to a refused request. The
        code is a short name of the error that never changes.
        `on_refused(limit)` is called for each such request, so that the service can count it.
        `on_drain` is called in each worker when the instance begins to shut down, so that readiness
        checks can fail. `on_stop_accepting` is called when a worker no longer accepts connections,
        so that endless streams can end.
    """

    check_command: tuple[str, ...]
    drain_seconds: float = 8
    graceful_timeout_seconds: float = 30
    closing_seconds: float = 5
    header_seconds: float = 5
    header_bytes: int = 32_768
    header_fields: int = 100
    body_seconds: float = 20
    write_seconds: float = 30
    render_error: Callable[[int, str, str, str], EarlyError] = plain_error
    on_refused: Callable[[str], None] = lambda _limit: None
    on_drain: Callable[[], None] = lambda: None
    on_stop_accepting: Callable[[], None] = lambda: None
