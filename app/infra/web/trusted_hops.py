"""Finds the address of the client behind a known number of proxies, whose addresses are unknown.

Each proxy appends the address that it was called from to X-Forwarded-For. So the last entries come
from the proxies, and whatever the client sent itself is before them. Uvicorn does this for proxies
whose addresses are known, and would otherwise use the first entry, which the client chooses.
"""

from ipaddress import ip_address

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from app.infra.web.client_address import without_port


class TrustedHopsMiddleware:
    """Pure ASGI. It stands outside everything that reads the address of the client."""

    def __init__(self, app: ASGIApp, hops: int) -> None:
        self.app = app
        self._hops = hops

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            headers = Headers(scope=scope)
            addresses = _entries(headers, "x-forwarded-for")
            # A request with fewer entries has not passed all proxies. Probes of a platform do not.
            if len(addresses) >= self._hops and (found := _address(addresses[-self._hops])):
                scope["client"] = (found, 0)
            schemes = _entries(headers, "x-forwarded-proto")
            if schemes and schemes[-1] in ("http", "https"):
                is_secure = schemes[-1] == "https"
                names = ("http", "https") if scope["type"] == "http" else ("ws", "wss")
                scope["scheme"] = names[is_secure]
        await self.app(scope, receive, send)


def _entries(headers: Headers, name: str) -> list[str]:
    """Return the entries of all lines of a header, in their order."""
    return [entry.strip() for line in headers.getlist(name) for entry in line.split(",")]


def _address(entry: str) -> str | None:
    """Return the IP address in an entry, which may have a port, or None if there is none."""
    try:
        return str(ip_address(without_port(entry)))
    except ValueError:
        return None
