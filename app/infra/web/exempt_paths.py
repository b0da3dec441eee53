"""Paths that no limit applies to: probes and metrics must work under load above all.

Probes come by address rather than by host name. `/metrics` itself checks who may read it.
"""

EXEMPT_PATHS = frozenset(("/livez", "/readyz", "/metrics"))
