"""The error that a read may raise in addition to the errors of its load."""


class CacheBusy(Exception):
    """A read was not answered in time. Respond with 503 and Retry-After. `str()` says why."""
