"""Rate limits, and the arithmetic of GCRA, the generic cell rate algorithm.

GCRA stores one number for each client: the time until which the requests so far have used up the
quota. Each request moves that time forward by one interval. A request is refused if it would move
the time further ahead of the clock than one window. A client may therefore use the whole quota at
once, and gets it back evenly over the window.
"""

import re
from dataclasses import dataclass
from enum import Enum, auto
from typing import NamedTuple

MICROSECONDS = 1_000_000
NAME = re.compile(r"[a-z][a-z0-9_]*")


class By(Enum):
    """Who shares the quota of a limit.

    PRINCIPAL is the user of the access token, and without a valid token the address. ADDRESS is the
    address of the client; IPv6 addresses of one /64 count as one. ACCOUNT is what a service passes
    to the `RateLimiter`, such as the e-mail address of a login.
    """

    PRINCIPAL = auto()
    ADDRESS = auto()
    ACCOUNT = auto()


# Compared by identity, because each request looks its limits up in a cache.
@dataclass(frozen=True, slots=True, eq=False)
class Limit:
    """At most `quota` requests at once, and as many again evenly over `seconds`.

    All routes that declare the same limit share its quota. RATE_LIMITS_QUOTAS changes it by `name`.
    The default limits, those of the routes that declare none, are changed by `*` as well.
    """

    name: str
    quota: int
    seconds: int
    by: By = By.PRINCIPAL
    is_default: bool = False

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise ValueError(
                f"The name of a rate limit is in the headers of responses and in "
                f"RATE_LIMITS_QUOTAS. {self.name!r} has to be lower-case letters, digits and _."
            )
        if min(self.quota, self.seconds) < 1 or self.quota > MICROSECONDS * self.seconds:
            raise ValueError(
                f"The rate limit {self.name!r} has to allow at least one request, in at least one "
                "second, and at most a million requests in a second."
            )


class Pace(NamedTuple):
    """A quota in the terms of GCRA: the microseconds of one request, and of the whole quota."""

    interval: int
    window: int

    @classmethod
    def of(cls, quota: int, seconds: int) -> "Pace":
        # Whole numbers, so that rounding cannot take the last request of a quota away.
        interval = max(1, seconds * MICROSECONDS // quota)
        return cls(interval, interval * quota)


class Rule(NamedTuple):
    """A limit as it is applied: with the quota of the settings, and the share of this process.

    All of its keys begin with `prefix`. `policy` is its member of the header RateLimit-Policy.
    """

    name: str
    shared: Pace
    local: Pace
    prefix: str
    policy: str


class Charge(NamedTuple):
    """One request that one limit counts under `key`."""

    rule: Rule
    key: str


class Count(NamedTuple):
    """What a limit says about a request: how many more it allows, and microseconds.

    `reset` is the time until the whole quota is available again. `wait` is positive if this limit
    refuses the request.
    """

    rule: Rule
    remaining: int
    reset: int
    wait: int


def count(rule: Rule, pace: Pace, ahead: int, *, accepted: bool) -> Count:
    """Return the count of a request, whose stored time is now `ahead` of the clock."""
    interval, window = pace
    remaining = (window - ahead) // interval
    return Count(rule, remaining, ahead, 0 if accepted else max(0, ahead + interval - window))
