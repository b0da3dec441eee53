"""Paths that skip limits.

Probes and metrics must work under load. Probes use an address as host. `/metrics` has its own
access check.
"""

EXEMPT_PATHS = frozenset(("/livez", "/readyz", "/metrics"))
DOCUMENTATION = frozenset(("/docs", "/openapi.json"))
ASSETS = "/docs/assets/"


def is_exempt_from_rate_limits(path: str) -> bool:
    """Whether it is a probe, the metrics, or a part of the documentation."""
    return path in EXEMPT_PATHS or path in DOCUMENTATION or path.startswith(ASSETS)
