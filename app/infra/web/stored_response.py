"""How a response is kept: its bytes, their compressed form and their validator, computed once.

An entry's value is one line of JSON (status, headers), the body, and the body compressed.
"""

import gzip
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import orjson
from anyio.to_thread import run_sync

from app.infra.web.etags import entity_tag
from app.infra.web.problems import MEDIA_TYPE as PROBLEM

Headers = list[tuple[bytes, bytes]]

# Below, the header of the compressed form costs what it saves.
SMALLEST_COMPRESSED = 500
# Above, compression would hold up the event loop: it runs in a thread.
LARGEST_ON_LOOP = 50_000
LEVEL = 6
GZIP = (b"content-encoding", b"gzip")
# What this layer decides itself, or what is about one connection.
NEVER_STORED = (b"set-cookie", b"vary", b"content-range", b"content-encoding")
REPLACED = (b"content-length", b"cache-control", b"etag", b"vary", b"connection")


@dataclass(slots=True)
class Captured:
    """A response as a route has sent it."""

    status: int = 500
    headers: Headers = field(default_factory=list)
    body: bytes = b""
    is_whole: bool = False

    async def receive(self, message: Any) -> None:
        """Take the place of ASGI's `send`."""
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], list(message.get("headers", ()))
        elif message["type"] == "http.response.body":
            self.body += message.get("body", b"")
            self.is_whole = not message.get("more_body", False)

    def header(self, name: bytes) -> bytes:
        """Return the values of a header, joined."""
        return b", ".join(value for key, value in self.headers if key == name)

    @property
    def may_be_stored(self) -> bool:
        """Whether a shared cache may keep it (RFC 9111, §3), and it is whole."""
        if self.status == 404:
            return self.is_whole and self.is_problem
        return self.status == 200 and not self.obstacle

    @property
    def obstacle(self) -> str:
        """Return what keeps an answer of success from being stored, or nothing."""
        if not self.is_whole:
            return "it did not end"
        control = self.header(b"cache-control").lower()
        if b"no-store" in control or b"private" in control:
            return "it says so in Cache-Control"
        found = [name.decode() for name, _ in self.headers if name in NEVER_STORED]
        return f"it has {', '.join(found)}" if found else ""

    @property
    def is_problem(self) -> bool:
        """Whether it is one of our own errors, which do not depend on who asks."""
        return self.header(b"content-type") == PROBLEM.encode()


class Variant(NamedTuple):
    """One form of a response: as it is, or compressed."""

    etag: bytes
    headers: Headers
    headers_if_not_modified: Headers
    body: bytes


class Representation(NamedTuple):
    """A response that can be sent at once."""

    status: int
    route: str
    plain: Variant
    compressed: Variant | None


async def write_down(
    response: Captured, route: str, cache_control: str, *, compress: bool = True
) -> bytes:
    """Return what `read` reads. `route` is the template that was asked for, for who observes."""
    head = {
        "status": response.status,
        "route": route,
        "etag": response.header(b"etag").decode("latin-1") or entity_tag(response.body),
        "cache_control": cache_control,
        "length": len(response.body),
        "headers": [
            [name.decode("latin-1"), value.decode("latin-1")]
            for name, value in response.headers
            if name not in REPLACED
        ],
    }
    compressed = await _compress(response.body) if compress else b""
    return b"".join((orjson.dumps(head), b"\n", response.body, compressed))


def read(value: bytes) -> Representation:
    """Make what was written down ready to be sent."""
    line, _, rest = value.partition(b"\n")
    head = orjson.loads(line)
    headers = [(name.encode("latin-1"), text.encode("latin-1")) for name, text in head["headers"]]
    body, compressed = rest[: head["length"]], rest[head["length"] :]
    if head["status"] != 200:  # its body is made anew for each request: no length, no validator
        plain = Variant(b"", headers, [], body)
        return Representation(head["status"], head["route"], plain, None)
    etag: bytes = head["etag"].encode("latin-1")
    common = [(b"cache-control", head["cache_control"].encode()), (b"vary", b"accept-encoding")]
    plain = _variant(etag, common, headers, body)
    small = None
    if compressed:
        small = _variant(etag[:-1] + b'-gzip"', common, [*headers, GZIP], compressed)
    return Representation(200, head["route"], plain, small)


def _variant(etag: bytes, common: Headers, headers: Headers, body: bytes) -> Variant:
    common = [*common, (b"etag", etag)]
    length = (b"content-length", b"%d" % len(body))
    return Variant(etag, [*headers, length, *common], common, body)


async def _compress(body: bytes) -> bytes:
    if len(body) < SMALLEST_COMPRESSED:
        return b""
    compress = partial(gzip.compress, body, LEVEL, mtime=0)
    return await run_sync(compress) if len(body) > LARGEST_ON_LOOP else compress()
