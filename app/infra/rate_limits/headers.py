"""The headers RateLimit and RateLimit-Policy, as in draft-ietf-httpapi-ratelimit-headers-11."""

from collections.abc import Sequence
from functools import lru_cache

from app.infra.observability.request_context import request_context
from app.infra.rate_limits.limit import MICROSECONDS, Count


def announce(counts: Sequence[Count]) -> None:
    """Let the response to the current request tell these counts, and no others."""
    current = request_context.get()
    if current is None or not counts:
        return
    states = []
    for rule, remaining, reset, wait in counts:
        until = to_seconds(wait or reset)  # with Retry-After, both mean the same time
        states.append(f'"{rule.name}";r={remaining};t={until}')
    policies = _policy_header(tuple([counted.rule.policy for counted in counts]))
    current.headers = (policies, (b"ratelimit", ", ".join(states).encode()))


@lru_cache(maxsize=256)
def _policy_header(policies: tuple[str, ...]) -> tuple[bytes, bytes]:
    return b"ratelimit-policy", ", ".join(policies).encode()


def to_seconds(microseconds: int) -> int:
    """Round up, so that a client that waits so long is not refused again."""
    return -(-microseconds // MICROSECONDS)
