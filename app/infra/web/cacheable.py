"""Declares which routes are cached for everybody, and how caches outside may keep their answers."""

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TypeVar

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


def policy_of(endpoint: object) -> CachePolicy | None:
    """Return what `cacheable` declared for an endpoint, or None."""
    policy: CachePolicy | None = getattr(endpoint, POLICY, None)
    return policy


def cache_key(path: str, query: str, parameters: Collection[str]) -> str | None:
    """Return the only key under which an answer is cached, or None if it is not cached.

    Each parameter is one that the route takes, appears once, and has a value that is spelled in one
    way. Other requests bypass the cache, so clients cannot fill it with copies of one answer.
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
