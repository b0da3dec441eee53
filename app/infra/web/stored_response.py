"""How a response is cached: its bytes, its compressed form and its validator, computed once.

The value of a cache entry is one line of JSON (status, headers), the body, and the compressed body.
"""

import gzip
import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import orjson
from anyio.to_thread import run_sync
from starlette.types import Message, Send

from app.infra.observability.request_context import request_id
from app.infra.web.conditional_requests import CacheRequestHeaders
from app.infra.web.etags import entity_tag
from app.infra.web.known_route import KnownRoute
from app.infra.web.problems import MEDIA_TYPE as PROBLEM
from coherent_cache import Entry, Source
from graceful_gunicorn import ENCODED_HEAD, EncodedHead, encode_head

Headers = list[tuple[bytes, bytes]]

SMALLEST_COMPRESSED = 500  # smaller bodies do not shrink enough to pay for the header
LARGEST_ON_LOOP = 50_000  # above, compression would block the event loop and runs in a thread
LEVEL = 6
GZIP = (b"content-encoding", b"gzip")
# Set by the middleware, or specific to one connection.
NEVER_STORED = (b"set-cookie", b"vary", b"content-range", b"content-encoding")
REPLACED = (b"content-length", b"cache-control", b"etag", b"vary", b"connection")
X_CACHE = {source: (b"x-cache", source.value.encode()) for source in Source}


@dataclass(slots=True)
class CapturedResponse:
    """A response as a route has sent it. `receive_message` takes the place of ASGI's `send`."""

    status: int = 500
    headers: Headers = field(default_factory=list)
    body: bytes = b""
    is_complete: bool = False

    async def receive_message(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], list(message.get("headers", ()))
        elif message["type"] == "http.response.body":
            self.body += message.get("body", b"")
            self.is_complete = not message.get("more_body", False)

    def header(self, name: bytes) -> bytes:
        """Return the values of a header, joined."""
        return b", ".join(value for key, value in self.headers if key == name)

    @property
    def may_be_stored(self) -> bool:
        """Whether a shared cache may store it (RFC 9111 §3), and it is complete."""
        if self.status == 404:
            return self.is_complete and self.is_problem
        return self.status == 200 and not self.obstacle

    @property
    def obstacle(self) -> str:
        """Say what keeps a successful response from being stored. Empty if nothing does."""
        if not self.is_complete:
            return "it did not end"
        control = self.header(b"cache-control").lower()
        if b"no-store" in control or b"private" in control:
            return "its Cache-Control forbids it"
        found = [name.decode() for name, _ in self.headers if name in NEVER_STORED]
        return f"it has the header {', '.join(found)}" if found else ""

    @property
    def is_problem(self) -> bool:
        """Whether it is one of our own errors, which are the same for every client."""
        return self.header(b"content-type") == PROBLEM.encode()


class Variant(NamedTuple):
    """One form of a response: plain or compressed."""

    etag: bytes
    headers: Headers
    headers_if_not_modified: Headers
    body: bytes
    encoded_head: EncodedHead | None = None


class StoredResponse(NamedTuple):
    """A response that can be sent at once. `route` is the path template, for logs and metrics."""

    status: int
    route: str
    plain: Variant
    compressed: Variant | None


async def encode(response: CapturedResponse, route: KnownRoute) -> bytes:
    """Return the value of a cache entry."""
    assert route.cache_policy is not None
    head = {
        "status": response.status,
        "route": route.template,
        "etag": _etag_of(response).decode("latin-1"),
        "cache_control": route.cache_policy.cache_control,
        "length": len(response.body),
        "headers": [
            [name.decode("latin-1"), value.decode("latin-1")] for name, value in _kept(response)
        ],
    }
    compressed = await _compress(response.body)
    return b"".join((orjson.dumps(head), b"\n", response.body, compressed))


async def prepare(
    response: CapturedResponse, route: KnownRoute, *, compress: bool
) -> StoredResponse:
    """Return a response with status 200 as the cache would send it, without storing it."""
    assert route.cache_policy is not None
    compressed = await _compress(response.body) if compress else b""
    control = route.cache_policy.cache_control.encode()
    etag, headers = _etag_of(response), _kept(response)
    return _with_variants(route.template or "", etag, control, headers, response.body, compressed)


def decode(entry: Entry) -> StoredResponse:
    """Return the response of a cache entry. It is decoded once, while the entry is in memory."""
    stored: StoredResponse | None = entry.view
    if stored is None:
        stored = entry.view = _decode(entry.value)
    return stored


def _decode(value: bytes) -> StoredResponse:
    line, _, rest = value.partition(b"\n")
    head = orjson.loads(line)
    headers = [(name.encode("latin-1"), text.encode("latin-1")) for name, text in head["headers"]]
    body, compressed = rest[: head["length"]], rest[head["length"] :]
    if head["status"] != 200:  # its body contains a request id: no fixed length, no ETag
        return StoredResponse(head["status"], head["route"], Variant(b"", headers, [], body), None)
    etag, control = head["etag"].encode("latin-1"), head["cache_control"].encode()
    return _with_variants(head["route"], etag, control, headers, body, compressed)


def _with_variants(
    route: str, etag: bytes, control: bytes, headers: Headers, body: bytes, compressed: bytes
) -> StoredResponse:
    common = [(b"cache-control", control), (b"vary", b"accept-encoding")]
    plain = _variant(etag, common, headers, body)
    small = None
    if compressed:
        small = _variant(etag[:-1] + b'-gzip"', common, [*headers, GZIP], compressed)
    return StoredResponse(200, route, plain, small)


def _etag_of(response: CapturedResponse) -> bytes:
    return response.header(b"etag") or entity_tag(response.body).encode()


def _kept(response: CapturedResponse) -> Headers:
    return [header for header in response.headers if header[0] not in REPLACED]


def _variant(etag: bytes, common: Headers, headers: Headers, body: bytes) -> Variant:
    common = [*common, (b"etag", etag)]
    length = (b"content-length", b"%d" % len(body))
    headers = [*headers, length, *common]
    return Variant(etag, headers, common, body, encode_head(200, headers))


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
        plain = stored.plain
        response = CapturedResponse(stored.status, plain.headers, plain.body, is_complete=True)
        await send_captured(response, source, send)
        return
    variant = stored.compressed if conditions.accepts_gzip and stored.compressed else stored.plain
    status, headers, body, head = 200, variant.headers, variant.body, variant.encoded_head
    if conditions.none_match and conditions.matches(variant.etag):
        status, headers, body, head = 304, variant.headers_if_not_modified, b"", None
    # A new list, to which the outer middleware adds.
    headers = [*headers, X_CACHE[source], *extra]
    start = {"type": "http.response.start", "status": status, "headers": headers}
    await send({**start, ENCODED_HEAD: head})
    await send({"type": "http.response.body", "body": body})


async def send_captured(response: CapturedResponse, source: Source, send: Send) -> None:
    """Send a response as it is. A problem gets the id of the request that it now answers."""
    body, headers = response.body, response.headers
    if response.is_problem:
        body = orjson.dumps({**orjson.loads(body), "request_id": request_id()})
        headers = [header for header in headers if header[0] != b"content-length"]
        headers.append((b"content-length", b"%d" % len(body)))
    start: dict[str, Any] = {"type": "http.response.start", "status": response.status}
    await send({**start, "headers": [*headers, X_CACHE[source]]})
    is_cut_off = not response.is_complete
    await send({"type": "http.response.body", "body": body, "more_body": is_cut_off})


async def _compress(body: bytes) -> bytes:
    if len(body) < SMALLEST_COMPRESSED:
        return b""
    compress = partial(gzip.compress, body, LEVEL, mtime=0)
    return await run_sync(compress) if len(body) > LARGEST_ON_LOOP else compress()
