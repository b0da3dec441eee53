"""The address of a client behind a known number of proxies."""

from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from app.infra.web.trusted_hops import TrustedHopsMiddleware

PEER = ("10.0.0.1", 4000)


async def seen(hops: int, *lines: tuple[str, str], kind: str = "http") -> Scope:
    """Return what an application behind the middleware sees."""
    found: list[Scope] = []

    async def application(scope: Scope, _receive: Receive, _send: Send) -> None:
        found.append(scope)

    headers = [(name.lower().encode(), value.encode()) for name, value in lines]
    scope: dict[str, Any] = {"type": kind, "headers": headers, "client": PEER, "scheme": "http"}
    await TrustedHopsMiddleware(application, hops)(scope, None, None)  # type: ignore[arg-type]
    return found[0]


@pytest.mark.parametrize(
    ("hops", "lines", "client"),
    [
        (1, ["203.0.113.9"], "203.0.113.9"),
        (1, ["1.1.1.1, 203.0.113.9"], "203.0.113.9"),
        (1, ["1.1.1.1", "203.0.113.9"], "203.0.113.9"),
        (1, ["1.1.1.1, 203.0.113.9:51000"], "203.0.113.9"),
        (1, ["1.1.1.1, 2001:db8::9"], "2001:db8::9"),
        (1, ["1.1.1.1, [2001:db8::9]:51000"], "2001:db8::9"),
        (2, ["1.1.1.1, 203.0.113.9, 10.9.9.9"], "203.0.113.9"),
        (2, ["1.1.1.1", "203.0.113.9", "10.9.9.9"], "203.0.113.9"),
        (3, ["1.1.1.1, 203.0.113.9"], PEER[0]),
        (1, ["203.0.113.9, unknown"], PEER[0]),
        (1, ["203.0.113.9,"], PEER[0]),
        (1, [""], PEER[0]),
        (1, [], PEER[0]),
    ],
)
async def test_entry_of_the_outermost_proxy_is_the_client(
    hops: int, lines: list[str], client: str
) -> None:
    scope = await seen(hops, *(("X-Forwarded-For", line) for line in lines))
    assert scope["client"][0] == client


@pytest.mark.parametrize(
    ("kind", "lines", "scheme"),
    [
        ("http", ["https"], "https"),
        ("http", ["http", "https"], "https"),
        ("http", ["https, http"], "http"),
        ("http", ["javascript"], "http"),
        ("websocket", ["https"], "wss"),
    ],
)
async def test_scheme_is_that_of_the_last_proxy(kind: str, lines: list[str], scheme: str) -> None:
    scope = await seen(1, *(("X-Forwarded-Proto", line) for line in lines), kind=kind)
    assert scope["scheme"] == scheme
