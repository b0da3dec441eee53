"""Paths that skip the concurrency limit and the host check.

Probes and metrics must work under load. Probes use an address as host. `/metrics` has its own
access check.
"""

EXEMPT_PATHS = frozenset(("/livez", "/readyz", "/metrics"))
