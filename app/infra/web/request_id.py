"""Gives every request an id: the client's, when it is harmless, else a random one.

The id is in the response, in problems and in every log line of the request.
"""

import random
import re

from starlette.types import Scope

from app.infra.observability.request_context import RequestContext

HEADER = b"x-request-id"
# Bounded, and without anything that means something in a log line or a header.
HARMLESS = re.compile(rb"[A-Za-z0-9._-]{8,64}")


def request_id_of(scope: Scope) -> str:
    """Return the id that the client chose, or a new one."""
    for name, value in scope["headers"]:
        if name == HEADER and HARMLESS.fullmatch(value):
            return str(value, "ascii")
    # No secret: the generator that asks nobody. Each worker has seeded its own.
    return f"{random.getrandbits(128):032x}"


def request_id_header(current: RequestContext) -> tuple[bytes, bytes]:
    """Return the header X-Request-ID."""
    return HEADER, current.request_id.encode()
