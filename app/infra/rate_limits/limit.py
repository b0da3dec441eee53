"""Rate limits, and the arithmetic of GCRA, the generic cell rate algorithm.

GCRA stores one number for each client: the time until which the requests so far have used up the
quota. Each request moves that time forward by one interval. A request is refused if it would move
the time further ahead of the clock than one window. A client may therefore use the whole quota at
once, and gets it back evenly over the window.
"""

from dataclasses import dataclass
from enum import Enum, auto
from typing import NamedTuple

MICROSECONDS = 1_000_000


class By(Enum):
    """Who shares the quota of a limit.

    PRINCIPAL is the user of the access token, and without a valid token the address. ADDRESS is the
    address of the client; IPv6 addresses of one /64 count as one. ACCOUNT is what a service passes
    to `RateLimiter.counting_failures`, such as the e-mail address of a login.
    """

    PRINCIPAL = auto()
    ADDRESS = auto()
    ACCOUNT = auto()


@dataclass(frozen=True, slots=True)
class Limit:
    """At most `quota` requests at once, and as many again evenly over `seconds`.

    All routes that declare the same limit share its quota. RATE_LIMITS_QUOTAS changes it by `name`.
    """

    name: str
    quota: int
    seconds: int
    by: By = By.PRINCIPAL


class Pace(NamedTuple):
    """A quota in the terms of GCRA, in microseconds.

    `ahead` in the methods is how far the stored time is ahead of the clock.
    """

    interval: int
    window: int

    @classmethod
    def of(cls, quota: int, seconds: int) -> "Pace":
        # Whole numbers, so that rounding cannot take the last request of a quota away.
        interval = max(1, seconds * MICROSECONDS // quota)
        return cls(interval, interval * quota)

    def wait(self, ahead: int) -> int:
        """Return how long the next request has to wait. It is refused if this is positive."""
        return ahead + self.interval - self.window

    def remaining(self, ahead: int) -> int:
        """Return how many requests are left."""
        return max(0, self.window - ahead) // self.interval


class Rule(NamedTuple):
    """A limit as it is applied: with the quota of the settings, and the share of this process.

    `policy` is its member of the header RateLimit-Policy.
    """

    name: str
    shared: Pace
    local: Pace
    policy: str


class Charge(NamedTuple):
    """One request that one limit counts under `key`."""

    rule: Rule
    key: str


class Count(NamedTuple):
    """What a limit says about a request: how many remain, and the microseconds to wait.

    `reset` is the time until the whole quota is available again. `wait` is positive if this limit
    refuses the request.
    """

    rule: Rule
    remaining: int
    reset: int
    wait: int


def count(rule: Rule, pace: Pace, ahead: int, *, accepted: bool) -> Count:
    """`ahead` includes the request if it was accepted."""
    return Count(rule, pace.remaining(ahead), ahead, 0 if accepted else max(0, pace.wait(ahead)))
