"""How a response is cached: its bytes, its compressed form and its validator, computed once.

The value of a cache entry contains the head and the body of each form as they are sent, so that a
response from Valkey is neither encoded nor checked again.
"""

import gzip
import struct
import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from anyio.to_thread import run_sync
from starlette.types import Send

from app.infra.web.captured_response import X_CACHE, CapturedResponse, Headers, send_captured
from app.infra.web.conditional_requests import CacheRequestHeaders
from app.infra.web.etags import entity_tag
from app.infra.web.known_route import KnownRoute
from coherent_cache import Entry, Source
from graceful_gunicorn import ENCODED_HEAD, EncodedHead, decode_head, encode_head

SMALLEST_COMPRESSED = 500  # smaller bodies do not shrink enough to pay for the header
LARGEST_ON_LOOP = 50_000  # above, compression would block the event loop and runs in a thread
LEVEL = 6
# Status; lengths of the route's template, of the plain head and body, and of the compressed head.
LAYOUT = struct.Struct(">HHIII")
GZIP = (b"content-encoding", b"gzip")
REPLACED = (b"content-length", b"connection", b"cache-control", b"etag", b"vary")
VARY = (b"vary", b"accept-encoding")  # not in the encoded heads, because CORS changes it


@dataclass(slots=True)
class Variant:
    """One form of a response: plain or compressed.

    `head_content` is decoded when the variant is sent, which most are not. The last headers are
    those of a 304: Cache-Control and ETag.
    """

    head_content: bytes
    body: bytes
    _head: EncodedHead | None = None
    _not_modified: EncodedHead | None = None

    @property
    def head(self) -> EncodedHead:
        if self._head is None:
            self._head = decode_head(self.head_content, len(self.body))
        return self._head

    @property
    def etag(self) -> bytes:
        return self.head.headers[-1][1]

    @property
    def not_modified(self) -> EncodedHead:
        """The head of a 304."""
        if self._not_modified is None:
            self._not_modified = encode_head(304, self.head.headers[-2:])
            assert self._not_modified is not None  # its headers are those of `head`
        return self._not_modified


class StoredResponse(NamedTuple):
    """A response that can be sent at once. `route` is the path template, for logs and metrics."""

    status: int
    route: str
    plain: Variant
    compressed: Variant | None


async def encode(response: CapturedResponse, route: KnownRoute) -> bytes | None:
    """Return the value of a cache entry, or None if one of the headers is not valid."""
    prepared = await prepare(response, route, compress=True)
    if prepared is None:
        return None
    status, template, plain, small = prepared
    name, small = template.encode(), small or Variant(b"", b"")
    parts = (name, plain.head_content, plain.body, small.head_content, small.body)
    return b"".join((LAYOUT.pack(status, *map(len, parts[:-1])), *parts))


async def prepare(
    response: CapturedResponse, route: KnownRoute, *, compress: bool
) -> StoredResponse | None:
    """Return a response as the cache would send it, or None if one of its headers is not valid."""
    assert route.cache_policy is not None
    status, template, body = response.status, route.template or "", response.body
    headers = _kept(response)
    if status != 200:  # its body contains a request id: no fixed length, no ETag
        plain = _variant(status, headers, body, [])
        return None if plain is None else StoredResponse(status, template, plain, None)
    etag, control = _etag_of(response), route.cache_policy.cache_control.encode()
    common = [(b"cache-control", control)]
    plain, small = _variant(200, headers, body, [*common, (b"etag", etag)]), None
    if plain is None:
        return None
    if compress and (compressed := await _compress(body)):
        etag = etag[:-1] + b'-gzip"'
        small = _variant(200, [*headers, GZIP], compressed, [*common, (b"etag", etag)])
    return StoredResponse(200, template, plain, small)


def decode(entry: Entry) -> StoredResponse:
    """Return the response of a cache entry. It is decoded once, while the entry is in memory."""
    stored: StoredResponse | None = entry.view
    if stored is None:
        stored = entry.view = _decode(entry.value)
    return stored


def _decode(value: bytes) -> StoredResponse:
    status, route, plain_head, plain_body, small_head = LAYOUT.unpack_from(value)
    head_at = LAYOUT.size + route
    body_at = head_at + plain_head
    small_at = body_at + plain_body
    template = value[LAYOUT.size : head_at].decode()
    plain, small = Variant(value[head_at:body_at], value[body_at:small_at]), None
    if small_head:
        small_body_at = small_at + small_head
        small = Variant(value[small_at:small_body_at], value[small_body_at:])
    return StoredResponse(status, template, plain, small)


def _variant(status: int, headers: Headers, body: bytes, common: Headers) -> Variant | None:
    """Return None if one of the headers is not valid."""
    head = encode_head(status, [*headers, (b"content-length", b"%d" % len(body)), *common])
    return None if head is None else Variant(head.content, body, head)


def _etag_of(response: CapturedResponse) -> bytes:
    return response.header(b"etag") or entity_tag(response.body).encode()


def _kept(response: CapturedResponse) -> Headers:
    return [header for header in response.headers if header[0] not in REPLACED]


def send_entry(
    entry: Entry, source: Source, conditions: CacheRequestHeaders, send: Send
) -> Awaitable[None]:
    """Send the response of a cache entry, with its age."""
    # An entry of Valkey was validated just now: RFC 9111 §5.1.
    extra = []
    if source is not Source.LOAD:
        age = time.monotonic() - entry.validated_at if source is Source.MEMORY else 0
        extra.append((b"age", b"%d" % age))
    return send_stored(decode(entry), source, conditions, send, extra)


async def send_stored(
    stored: StoredResponse,
    source: Source,
    conditions: CacheRequestHeaders,
    send: Send,
    extra: Sequence[tuple[bytes, bytes]] = (),
) -> None:
    """Send the variant that the client accepts, or 304 if the client already has it."""
    if stored.status != 200:
        headers, body = stored.plain.head.headers, stored.plain.body
        response = CapturedResponse(stored.status, headers, body, is_complete=True)
        await send_captured(response, source, send)
        return
    variant = stored.compressed if conditions.accepts_gzip and stored.compressed else stored.plain
    head, body = variant.head, variant.body
    if conditions.none_match and conditions.matches(variant.etag):
        head, body = variant.not_modified, b""
    # A new list, to which the outer middleware adds.
    headers = [*head.headers, VARY, X_CACHE[source], *extra]
    start = {"type": "http.response.start", "status": head.status, "headers": headers}
    start[ENCODED_HEAD] = head
    await send(start)
    await send({"type": "http.response.body", "body": body})


async def _compress(body: bytes) -> bytes:
    if len(body) < SMALLEST_COMPRESSED:
        return b""
    compress = partial(gzip.compress, body, LEVEL, mtime=0)
    return await run_sync(compress) if len(body) > LARGEST_ON_LOOP else compress()
