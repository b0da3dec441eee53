"""Answers under the names of the service alone, where these are known: LIMITS_HOSTS."""

import re
from functools import lru_cache

from starlette.types import ASGIApp, Receive, Scope, Send

from app.infra.observability.metrics import REFUSED
from app.infra.web.exempt_paths import EXEMPT_PATHS
from app.infra.web.problems import code_of, problem

PORT = re.compile(r":\d*$")


class TrustedHostsMiddleware:
    """Pure ASGI, outside of the response cache: a hit, too, is for whoever asked by name.

    `hosts` are separated by commas; `*.example.com` is every name below that one.
    """

    def __init__(self, app: ASGIApp, hosts: str) -> None:
        self.app = app
        names = hosts.split(",")
        self._names = frozenset(names)
        self._endings = tuple(name[1:] for name in names if name.startswith("*."))
        self._is_ours = lru_cache(maxsize=256)(self._look_up)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in EXEMPT_PATHS or self._is_ours(_host(scope)):
            await self.app(scope, receive, send)
            return
        REFUSED.labels("host").inc()
        refusal = problem(scope, 400, code_of(400), "There is no such host here.")
        await refusal(scope, receive, send)

    def _look_up(self, host: bytes) -> bool:
        name = PORT.sub("", host.decode("latin-1").lower())
        return name in self._names or name.endswith(self._endings)


def _host(scope: Scope) -> bytes:
    return next((value for name, value in scope["headers"] if name == b"host"), b"")
