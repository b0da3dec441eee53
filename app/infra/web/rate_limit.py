"""Answers 429 to clients that send more requests than the limits of a route allow."""

from collections.abc import Sequence
from functools import lru_cache

from starlette.types import ASGIApp, Receive, Scope, Send

from app.errors import RateLimited
from app.infra.observability.request_context import request_context
from app.infra.rate_limits.headers import announce
from app.infra.rate_limits.limit import By, Charge, Count
from app.infra.rate_limits.limiter import RateLimiter, refusal_of
from app.infra.security.access_tokens import AccessTokens
from app.infra.web.client_address import address_of, user_of
from app.infra.web.exempt_paths import is_exempt_from_rate_limits
from app.infra.web.problems import refuse
from app.infra.web.rate_limited import Limits, default_limits
from app.infra.web.routing import route_table_of

MAX_KEPT = 1_000  # clients whose charges are kept; making them anew would double the time of a hit


class RequestLimits:
    """Counts requests by user and by address. It is `app.state.request_limits`."""

    def __init__(self, limiter: RateLimiter, tokens: AccessTokens) -> None:
        self._limiter = limiter
        self._tokens = tokens
        self._charges_of = lru_cache(MAX_KEPT)(self._make_charges)

    async def count(self, scope: Scope, limits: Limits) -> RateLimited | None:
        """Count a request in Valkey. Return the error if a limit refuses it."""
        return _report(await self._limiter.take(self._charges(scope, limits)))

    def count_hit(self, scope: Scope, limits: Limits) -> RateLimited | None:
        """Count a response from the cache, in this process only."""
        return _report(self._limiter.take_hit(self._charges(scope, limits)))

    def _charges(self, scope: Scope, limits: Limits) -> Sequence[Charge]:
        address = address_of(scope)
        return self._charges_of(limits, address, user_of(scope, self._tokens) or address)

    def _make_charges(self, limits: Limits, address: str, principal: str) -> Sequence[Charge]:
        return [
            self._limiter.charge(limit, address if limit.by is By.ADDRESS else principal)
            for limit in limits
            if limit.by is not By.ACCOUNT
        ]


class RateLimitMiddleware:
    """Pure ASGI, inside the response cache, which calls `count_hit` for what it answers itself.

    A request is refused before its body is read. Nothing is limited before the lifespan has set
    `app.state.request_limits`.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_limits = None if _is_exempt(scope) else request_limits_of(scope)
        if request_limits is None:
            await self.app(scope, receive, send)
            return
        route, found = route_table_of(scope).find(scope)
        limits = route.limits(scope["method"]) if route else default_limits(scope["method"])
        if refusal := await request_limits.count(scope, limits):
            scope.update(found)  # the problem depends on the endpoint
            await refuse(refusal, scope, receive, send)
        else:
            await self.app(scope, receive, send)


def count_hit(limits: Limits, scope: Scope) -> RateLimited | None:
    """Count a response from the cache. Return the error if a limit refuses it."""
    request_limits = request_limits_of(scope)
    return None if request_limits is None else request_limits.count_hit(scope, limits)


def request_limits_of(scope: Scope) -> RequestLimits | None:
    request_limits: RequestLimits | None = getattr(scope["app"].state, "request_limits", None)
    return request_limits


def _is_exempt(scope: Scope) -> bool:
    """Whether the request is exempt, or loads a response for the cache and has no client."""
    if scope["type"] != "http" or is_exempt_from_rate_limits(scope["path"]):
        return True
    current = request_context.get()
    return current is not None and current.shown_tags is not None


def _report(counts: Sequence[Count]) -> RateLimited | None:
    """Set the headers of the response. Return the error if a limit refuses the request."""
    announce(counts)
    return refusal_of(counts)
