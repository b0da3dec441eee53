"""Gives every request an id: the one that the client sent, if it is harmless, or a random one.

The id is in the response, in problem documents and in every log line of the request.
"""

import random
import re

from starlette.types import Scope

from app.infra.observability.request_context import RequestContext

HEADER = b"x-request-id"
# Short, and without characters that have a meaning in log lines or headers.
HARMLESS = re.compile(rb"[A-Za-z0-9._-]{8,64}")


def request_id_of(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == HEADER and HARMLESS.fullmatch(value):
            return str(value, "ascii")
    # Not a secret, so the fast generator is enough. Each worker has seeded its own.
    return f"{random.getrandbits(128):032x}"


def request_id_header(current: RequestContext) -> tuple[bytes, bytes]:
    return HEADER, current.request_id.encode()
