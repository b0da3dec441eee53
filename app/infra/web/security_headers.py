"""Security headers: those of every answer, and those of HTML pages."""

# HTML pages cannot be shown in a frame of another site.
PAGE_POLICY = "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'"
# Cache-Control of every answer that does not set it.
PRIVATE = "private, no-store"
PAGE_HEADERS = {"Cross-Origin-Resource-Policy": "same-origin"}


def security_headers(hsts_seconds: int) -> list[tuple[bytes, bytes]]:
    """Return the headers of every answer. CORS decides which origins may read answers."""
    headers = [(b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer")]
    if hsts_seconds:
        value = b"max-age=%d; includeSubDomains" % hsts_seconds
        headers.append((b"strict-transport-security", value))
    return headers
