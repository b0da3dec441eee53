"""Headers of every response: the request id, times, and the security headers."""

import base64
import hashlib
import random
import re

from starlette.types import Scope

from app.infra.observability.request_context import RequestContext

REQUEST_ID = b"x-request-id"
# Short, and without characters that have a meaning in log lines or headers.
HARMLESS = re.compile(rb"[A-Za-z0-9._-]{8,64}")
# HTML pages cannot be shown in a frame of another site.
PAGE_POLICY = "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'"
PAGE_HEADERS = {"Cross-Origin-Resource-Policy": "same-origin"}
# Cache-Control of every response that does not set it.
PRIVATE = "private, no-store"


def content_hash(content: str) -> str:
    """Return the hash that allows inline content in a Content-Security-Policy."""
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()


def read_request_id(scope: Scope) -> str:
    """Return the id that the client sent, if it is harmless, or a random one."""
    for name, value in scope["headers"]:
        if name == REQUEST_ID and HARMLESS.fullmatch(value):
            return str(value, "ascii")
    # Not a secret, so the fast generator is enough. Each worker has seeded its own.
    return f"{random.getrandbits(128):032x}"


def request_id_header(current: RequestContext) -> tuple[bytes, bytes]:
    return REQUEST_ID, current.request_id.encode()


def process_time(current: RequestContext) -> tuple[bytes, bytes]:
    """Return the seconds until the response began, as X-Process-Time."""
    return b"x-process-time", b"%.6f" % current.elapsed_seconds()


def server_timing(current: RequestContext) -> tuple[bytes, bytes]:
    """Return the Server-Timing header (W3C), in milliseconds. Browsers show it."""
    parts = [f"app;dur={current.elapsed_seconds() * 1e3:.2f}"]
    if count := current.statement_count:
        parts.append(f'db;dur={current.database_seconds * 1e3:.2f};desc="{count} statements"')
    if current.cache is not None:
        parts.append(f"cache;desc={current.cache}")
    return b"server-timing", ", ".join(parts).encode()


def headers_before_body(scope: Scope) -> dict[str, str]:
    """Return headers for a response that is sent before the body of the request was read.

    A client that waits for 100 Continue may send the body or not, so the connection must end.
    """
    expects = any(name == b"expect" for name, _ in scope["headers"])
    return {"Connection": "close"} if expects else {}


def security_headers(hsts_seconds: int) -> list[tuple[bytes, bytes]]:
    """Return the headers that are the same on every response."""
    headers = [(b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer")]
    if hsts_seconds:
        value = b"max-age=%d; includeSubDomains" % hsts_seconds
        headers.append((b"strict-transport-security", value))
    return headers
