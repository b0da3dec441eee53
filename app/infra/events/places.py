"""Limits how many clients listen to event streams at the same time."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from app.errors import RateLimited, Unavailable
from app.infra.events.settings import EventsSettings
from app.infra.observability.metrics import REFUSED

RETRY_AFTER_SECONDS = 10


class Places:
    """The places of one process. A client is a user or an address."""

    def __init__(self, settings: EventsSettings) -> None:
        self._settings = settings
        self._taken: Counter[str] = Counter()

    @property
    def taken(self) -> int:
        return self._taken.total()

    @contextmanager
    def take(self, client: str) -> Iterator[None]:
        """Take a place while the block runs, or raise an error if there is none left."""
        if self._taken[client] >= self._settings.per_client:
            REFUSED.labels("events_per_client").inc()
            raise RateLimited(RETRY_AFTER_SECONDS, "This client has too many open event streams.")
        if self.taken >= self._settings.listeners:
            REFUSED.labels("events").inc()
            raise Unavailable("This process has reached its limit of open event streams.")
        self._taken[client] += 1
        try:
            yield
        finally:
            self._taken[client] -= 1
            if not self._taken[client]:
                del self._taken[client]
