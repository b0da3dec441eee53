"""Which requests no limit is for: of those who look after the service, under load above all.

They come by address and not by name. `/metrics` says itself who may see it.
"""

UNLIMITED = frozenset(("/livez", "/readyz", "/metrics"))
