"""A response as a route has sent it, and whether a cache may store it."""

from dataclasses import dataclass, field
from typing import Any

import orjson
from starlette.types import Message, Send

from app.infra.observability.request_context import request_id
from app.infra.web.problems import MEDIA_TYPE as PROBLEM
from coherent_cache import Source

Headers = list[tuple[bytes, bytes]]

# Set by the middleware, or specific to one connection.
NEVER_STORED = (b"set-cookie", b"vary", b"content-range", b"content-encoding")
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
            self.status = message["status"]
            # A route may have copied the headers of another server, with capitals.
            self.headers = [(name.lower(), value) for name, value in message.get("headers", ())]
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
        if found:
            return f"it has the header {', '.join(found)}"
        return ""

    @property
    def is_problem(self) -> bool:
        """Whether it is one of our own errors, which are the same for every client."""
        is_own = self.header(b"content-type") == PROBLEM.encode()
        return is_own and not any(name in NEVER_STORED for name, _ in self.headers)


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
