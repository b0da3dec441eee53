"""Refuses requests for other hosts than those in LIMITS_HOSTS, when that is set.

Starlette's TrustedHostMiddleware cannot exempt probes, which use the address of the pod as host. It
also answers in plain text, and redirects to `www.` names.
"""

import re
from functools import lru_cache

from starlette.types import ASGIApp, Receive, Scope, Send

from app.infra.observability.metrics import REFUSED
from app.infra.web.exempt_paths import EXEMPT_PATHS
from app.infra.web.problems import code_of, problem

PORT = re.compile(r":\d*$")


class TrustedHostsMiddleware:
    """Stands outside the response cache, so that cached answers are protected too.

    `hosts` is separated by commas. `*.example.com` matches every name below `example.com`.
    """

    def __init__(self, app: ASGIApp, hosts: str) -> None:
        self.app = app
        names = hosts.split(",")
        self._names = frozenset(names)
        self._endings = tuple(name[1:] for name in names if name.startswith("*."))
        self._is_trusted = lru_cache(maxsize=256)(self._look_up)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in EXEMPT_PATHS:
            host = next((value for name, value in scope["headers"] if name == b"host"), b"")
            if not self._is_trusted(host):
                REFUSED.labels("host").inc()
                response = problem(scope, 400, code_of(400), "Unknown host.")
                await response(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def _look_up(self, host: bytes) -> bool:
        name = PORT.sub("", host.decode("latin-1").lower())
        return name in self._names or name.endswith(self._endings)
