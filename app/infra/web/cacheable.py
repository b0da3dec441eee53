"""Which routes answer everybody alike, and how such an answer may be kept by others."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeGuard, TypeVar

from fastapi.routing import APIRoute
from starlette.routing import BaseRoute, Match
from starlette.types import Scope

EndpointT = TypeVar("EndpointT", bound=Callable[..., object])
MARK = "__public__"


@dataclass(frozen=True, slots=True)
class Public:
    """How an answer may be kept. Everybody may keep it, and asks each time whether it is valid."""

    cache_control: str = "public, no-cache"


def public(*, shared_seconds: int = 0) -> Callable[[EndpointT], EndpointT]:
    """Declare that the answer of a GET endpoint does not depend on who asks.

    It is then kept in the cache, with the tags that its service notes by `shows`. With
    `shared_seconds`, proxies and CDNs answer from their copies for so long, and the promise that
    nobody is answered with less than what was acknowledged ends at our edge.
    """
    policy = Public(f"public, max-age=0, s-maxage={shared_seconds}") if shared_seconds else Public()

    def declare(endpoint: EndpointT) -> EndpointT:
        setattr(endpoint, MARK, policy)
        return endpoint

    return declare


def find_public(routes: list[BaseRoute], scope: Scope) -> APIRoute | None:
    """Return the route that a request goes to, if it was declared `public`."""
    for route in routes:
        match, _ = route.matches(scope)
        if match is Match.FULL:
            return route if is_public(route) else None
    return None


def is_public(route: BaseRoute) -> TypeGuard[APIRoute]:
    """Whether it was declared `public`."""
    return isinstance(route, APIRoute) and hasattr(route.endpoint, MARK)


def policy_of(route: APIRoute) -> Public:
    """Return what was declared."""
    policy: Public = getattr(route.endpoint, MARK)
    return policy
