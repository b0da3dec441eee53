"""The headers RateLimit and RateLimit-Policy, as in draft-ietf-httpapi-ratelimit-headers-11."""

from collections.abc import Sequence

from app.infra.observability.request_context import request_context
from app.infra.rate_limits.limit import MICROSECONDS, Count


def announce(counts: Sequence[Count]) -> None:
    """Let the response to the current request tell these counts, and no others."""
    current = request_context.get()
    if current is None or not counts:
        return
    policies, states = [], []
    for rule, remaining, reset, wait in counts:
        until = to_seconds(wait or reset)  # with Retry-After, both mean the same time
        policies.append(rule.policy)
        states.append(f'"{rule.name}";r={remaining};t={until}')
    current.headers = (
        (b"ratelimit-policy", ", ".join(policies).encode()),
        (b"ratelimit", ", ".join(states).encode()),
    )


def to_seconds(microseconds: int) -> int:
    """Round up, so that a client that waits so long is not refused again."""
    return -(-microseconds // MICROSECONDS)
