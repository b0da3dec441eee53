"""Limits how many responses that last long, such as event streams, are open at the same time."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from app.errors import RateLimited, Unavailable
from app.infra.observability.metrics import REFUSED

RETRY_AFTER_SECONDS = 10


class Places:
    """The places of one process for one kind of responses. A client is a user or an address.

    `kind` is the name that refusals are counted under, and `what` names the responses in them.
    """

    def __init__(self, kind: str, what: str, *, most: int, per_client: int) -> None:
        self._kind, self._what = kind, what
        self._most, self._per_client = most, per_client
        self._taken: Counter[str] = Counter()

    @property
    def taken(self) -> int:
        return self._taken.total()

    @contextmanager
    def take(self, client: str) -> Iterator[None]:
        """Take a place while the block runs, or raise an error if there is none left."""
        if self._taken[client] >= self._per_client:
            REFUSED.labels(f"{self._kind}_per_client").inc()
            raise RateLimited(RETRY_AFTER_SECONDS, f"This client has too many open {self._what}.")
        if self.taken >= self._most:
            REFUSED.labels(self._kind).inc()
            raise Unavailable(f"This process has reached its limit of open {self._what}.")
        self._taken[client] += 1
        try:
            yield
        finally:
            self._taken[client] -= 1
            if not self._taken[client]:
                del self._taken[client]
