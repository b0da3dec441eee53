"""Paths without a concurrency limit and a check of the host.

Probes and metrics must work under load. Probes use an address as host. `/metrics` checks itself who
may read it.
"""

EXEMPT_PATHS = frozenset(("/livez", "/readyz", "/metrics"))
