"""Which scripts of other origins may read answers: Starlette's layer, with what this API uses.

There are no cookies: whoever has a token sends it in a header.
"""

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
SENT = ("Authorization", "Cache-Control", "If-Match", "If-None-Match", "Last-Event-ID")
SHOWN = ("Age", "ETag", "Link", "Location", "Retry-After", "X-Cache", "X-Request-ID")


def cors(app: ASGIApp, origins: str) -> ASGIApp:
    """Stand outside of the response cache, so that a hit has the headers of whoever asks for it."""
    return CORSMiddleware(
        app,
        allow_origins=origins.split(","),
        allow_methods=METHODS,
        allow_headers=(*SENT, "X-Request-ID"),
        expose_headers=SHOWN,
    )
