"""Declares how often a client may call a route."""

from collections.abc import Callable, Iterable
from dataclasses import astuple
from itertools import chain
from typing import TypeVar

from app.infra.rate_limits.limit import By, Limit

EndpointT = TypeVar("EndpointT", bound=Callable[..., object])
Limits = tuple[Limit, ...]
LIMITS = "__rate_limits__"  # the attribute of an endpoint that `rate_limited` sets

# A route that declares no limits has ADDRESS and one of the others.
ADDRESS = Limit("address", 6_000, 60, By.ADDRESS, is_default=True)
READS = Limit("reads", 1_200, 60, is_default=True)
WRITES = Limit("writes", 300, 60, is_default=True)
SAFE_METHODS = frozenset(("GET", "HEAD", "OPTIONS"))


def rate_limited(*limits: Limit) -> Callable[[EndpointT], EndpointT]:
    """Declare the limits of an endpoint, which replace the default ones.

    Each request counts for all of them, and is refused if one of them is used up. Limits by ACCOUNT
    are listed here for the reader. The service itself applies them (`RateLimiter.count` and
    `counting_failures`).
    """

    def declare(endpoint: EndpointT) -> EndpointT:
        setattr(endpoint, LIMITS, limits)
        return endpoint

    return declare


def declared_limits(endpoint: object) -> Limits | None:
    """Return what `rate_limited` declared for an endpoint, or None."""
    declared: Limits | None = getattr(endpoint, LIMITS, None)
    return declared


def limits_by_name(declared: Iterable[Limits]) -> dict[str, Limit]:
    """Return the default limits and the declared ones.

    Raise `TypeError` for two that differ and have one name: they would share their counts, and
    the quota of the one that is used first.
    """
    found: dict[str, Limit] = {}
    for limit in chain((ADDRESS, READS, WRITES), *declared):
        if astuple(found.setdefault(limit.name, limit)) != astuple(limit):
            raise TypeError(
                f"Two rate limits have the name {limit.name!r}. Declare it once and import it for "
                "the other routes, or give one of them another name."
            )
    return found


def default_limits(method: str) -> Limits:
    return (ADDRESS, READS if method in SAFE_METHODS else WRITES)
