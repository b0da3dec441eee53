"""Declares which routes are cached for everybody, and how caches outside may keep their answers."""

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TypeVar

from fastapi.dependencies.models import Dependant
from fastapi.security.base import SecurityBase

EndpointT = TypeVar("EndpointT", bound=Callable[..., object])
POLICY = "__cache_policy__"  # the attribute of an endpoint that `cacheable` sets
SAFE_PATH = re.compile(r"[A-Za-z0-9/_.~-]*")
SAFE_VALUE = re.compile(r"[A-Za-z0-9_.~-]{1,64}")


@dataclass(frozen=True, slots=True)
class CachePolicy:
    """The Cache-Control of an answer. By default caches may keep it and must revalidate it."""

    cache_control: str = "public, no-cache"


def cacheable(*, shared_seconds: int = 0) -> Callable[[EndpointT], EndpointT]:
    """Declare that the answer of a GET endpoint is the same for every client.

    The answer is cached with the tags that the service passes to `shows`. With `shared_seconds`,
    proxies and CDNs answer from their own copies for that long, so their answers may be that old.
    """
    seconds = f"public, max-age=0, s-maxage={shared_seconds}"
    policy = CachePolicy(seconds) if shared_seconds else CachePolicy()

    def declare(endpoint: EndpointT) -> EndpointT:
        setattr(endpoint, POLICY, policy)
        return endpoint

    return declare


def refuse_personal_input(route: str, dependant: Dependant) -> None:
    """Raise `TypeError` if a cacheable route reads a header, a cookie or a token.

    The request that loads a cached response has no headers, cookies or credentials.
    """
    names = [field.alias for field in (*dependant.header_params, *dependant.cookie_params)]
    if names or isinstance(dependant.call, SecurityBase):
        read = ", ".join(names) or "credentials"
        raise TypeError(
            f"{route} is declared @cacheable, but it reads {read} of the request, and a cached "
            "response is the same for every client. Remove @cacheable or that dependency."
        )
    for dependency in dependant.dependencies:
        refuse_personal_input(route, dependency)


def policy_of(endpoint: object) -> CachePolicy | None:
    """Return what `cacheable` declared for an endpoint, or None."""
    policy: CachePolicy | None = getattr(endpoint, POLICY, None)
    return policy


def cache_key(path: str, query: str, parameters: Collection[str]) -> str | None:
    """Return the only key under which an answer is cached, or None if it is not cached.

    It is None if the query has an unknown or a repeated parameter, or a value that needs escaping.
    Such requests bypass the cache, so clients cannot store one answer under many keys.
    """
    if not SAFE_PATH.fullmatch(path):
        return None
    pairs = sorted(query.split("&")) if query else []
    values = dict(pair.partition("=")[::2] for pair in pairs)
    if len(values) < len(pairs) or not values.keys() <= set(parameters):
        return None
    if not all(map(SAFE_VALUE.fullmatch, values.values())):
        return None
    return f"{path}?{'&'.join(pairs)}"
