"""What browsers are told on every answer, and on pages besides."""

# For pages of our own: nobody shows them in a frame, or takes parts of them for a page elsewhere.
PAGE_POLICY = "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'"
# Of every answer that says nothing else of who may keep it.
PRIVATE = "private, no-store"
PAGE_HEADERS = {"Cross-Origin-Resource-Policy": "same-origin"}


def security_headers(hsts_seconds: int) -> list[tuple[bytes, bytes]]:
    """Return the headers of every answer. What others may do with answers is for CORS to say."""
    headers = [(b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer")]
    if hsts_seconds:
        value = b"max-age=%d; includeSubDomains" % hsts_seconds
        headers.append((b"strict-transport-security", value))
    return headers
