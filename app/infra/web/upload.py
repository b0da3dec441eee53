"""Reads a file that a client has sent as the body of its request."""

from fastapi import Request


async def read_upload(request: Request) -> bytes:
    """Return the whole body. `request.body()` would keep a copy, so it would be in memory twice.

    Call it once: the body is not kept in the request.
    """
    pieces = [piece async for piece in request.stream() if piece]
    return b"".join(pieces)  # BodyLimitMiddleware has one piece, and joining one does not copy it
