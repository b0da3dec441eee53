"""Sends an object of the store: whole or a range of it, 304 if the client has it.

A piece is read from the store when the client has taken the one before. So a slow client holds a
piece in memory, and neither a connection to the store nor one to the database. A response of more
than one piece is a download: their number is limited, for each client and together. When the server
shuts down, a download that is not complete in time is cut off. The client asks for the rest of it,
with `Range`, and another instance answers.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

from fastapi import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app.errors import NotFound, Unavailable
from app.infra.places import Places
from app.infra.storage.store import ObjectStore
from app.infra.web.batch_response import Batches, BatchLimits, BatchResponse
from app.infra.web.client_address import client_of
from app.infra.web.conditional_requests import read_cache_headers
from app.infra.web.head_requests import is_head_request
from app.infra.web.problems import code_of, problem

PIECE_BYTES = 256 * 1024
# One range. A client that asks for several gets the whole object (RFC 9110, §14.2).
RANGE = re.compile(r"bytes=[ \t]*(\d{0,18})-(\d{0,18})[ \t]*", re.IGNORECASE)


class ObjectFile(NamedTuple):
    """What to send. `etag` identifies the content, with its quotes."""

    key: str
    etag: str
    media_type: str
    cache_control: str


class Download(BatchResponse):
    """Takes a place until the client has all of it."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        downloads: Places = scope["app"].state.downloads
        with downloads.take(client_of(scope)):
            await super().__call__(scope, receive, send)


async def object_response(
    request: Request,
    objects: ObjectStore,
    file: ObjectFile,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Return the response. Raises `NotFound` if the store does not have the object.

    It also raises `Unavailable` for a download after the shutdown of the server has begun. Sending
    the response raises `RateLimited` or `Unavailable` if there are too many downloads.
    """
    size = await objects.size(file.key)
    if size is None:
        raise NotFound("There is no such file.")
    sent = {
        "ETag": file.etag,
        "Accept-Ranges": "bytes",
        "Cache-Control": file.cache_control,
        **(headers or {}),
    }
    if read_cache_headers(request.scope).matches(file.etag.encode()):
        return Response(status_code=304, headers=sent)
    status, start, end = 200, 0, size
    if found := _requested_range(request, file.etag):
        start, end = _resolve(found, size)
        if start >= end:
            detail = "The file has no such range."
            unmet = {"Content-Range": f"bytes */{size}"}
            return problem(request.scope, 416, code_of(416), detail, headers=unmet)
        status = 206
        sent["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    sent["Content-Length"] = str(end - start)
    if is_head_request():
        return Response(status_code=status, headers=sent, media_type=file.media_type)
    first = await _piece(objects, file.key, start, end)
    if len(first) == end - start:
        return Response(first, status, sent, media_type=file.media_type)
    limits: BatchLimits = request.app.state.batch_limits
    limits.check_shutdown()
    pieces = _pieces(objects, file.key, first, start, end)
    return Download(pieces, limits, headers=sent, media_type=file.media_type, status_code=status)


async def _pieces(objects: ObjectStore, key: str, first: bytes, start: int, end: int) -> Batches:
    yield memoryview(first)
    for position in range(start + len(first), end, PIECE_BYTES):
        yield memoryview(await _piece(objects, key, position, end))


async def _piece(objects: ObjectStore, key: str, start: int, end: int) -> bytes:
    if start >= end:
        return b""
    length = min(PIECE_BYTES, end - start)
    piece = await objects.read(key, start, length)
    if piece is None or len(piece) != length:
        raise Unavailable("The file has just been deleted.")
    return piece


def _requested_range(request: Request, etag: str) -> re.Match[str] | None:
    """Return the range, unless it is none, or belongs to another version of the file."""
    lines = request.headers.getlist("range")
    if len(lines) != 1 or is_head_request():
        return None
    condition = request.headers.get("if-range")
    if condition is not None and condition.strip() != etag:  # weak tags and dates do not match
        return None
    found = RANGE.fullmatch(lines[0].strip())
    if found is None or not (found[1] or found[2]):
        return None
    is_backwards = found[1] and found[2] and int(found[2]) < int(found[1])
    return None if is_backwards else found


def _resolve(found: re.Match[str], size: int) -> tuple[int, int]:
    """Return the first byte, and the one after the last. An empty range cannot be satisfied."""
    first, last = found[1], found[2]
    if not first:
        return max(0, size - int(last)), size
    return int(first), min(size, int(last) + 1) if last else size
