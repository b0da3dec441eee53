"""Tells how long an answer took, in its headers: X-Process-Time, and Server-Timing if asked for.

Times are until the answer began. Browsers show the second.
"""

from app.infra.observability.request_context import RequestContext


def process_time(current: RequestContext) -> tuple[bytes, bytes]:
    """Return the header X-Process-Time, in seconds."""
    return b"x-process-time", b"%.6f" % current.elapsed_seconds()


def server_timing(current: RequestContext) -> tuple[bytes, bytes]:
    """Return the header of the Server-Timing draft of the W3C, in milliseconds."""
    parts = [f"app;dur={current.elapsed_seconds() * 1e3:.2f}"]
    if current.statements:
        count = len(current.statements)
        parts.append(f'db;dur={current.database_seconds * 1e3:.2f};desc="{count} statements"')
    if current.cache is not None:
        parts.append(f"cache;desc={current.cache}")
    return b"server-timing", ", ".join(parts).encode()
