"""Response headers with the seconds until the response began: X-Process-Time and Server-Timing."""

from app.infra.observability.request_context import RequestContext


def process_time(current: RequestContext) -> tuple[bytes, bytes]:
    return b"x-process-time", b"%.6f" % current.elapsed_seconds()


def server_timing(current: RequestContext) -> tuple[bytes, bytes]:
    """Return the Server-Timing header (W3C), in milliseconds. Browsers show it."""
    parts = [f"app;dur={current.elapsed_seconds() * 1e3:.2f}"]
    if current.statements:
        count = len(current.statements)
        parts.append(f'db;dur={current.database_seconds * 1e3:.2f};desc="{count} statements"')
    if current.cache is not None:
        parts.append(f"cache;desc={current.cache}")
    return b"server-timing", ", ".join(parts).encode()
