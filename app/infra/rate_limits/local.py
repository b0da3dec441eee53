"""Rate limits in the memory of this process."""

import time
from collections import OrderedDict
from collections.abc import Sequence

from app.infra.rate_limits.limit import Charge, Count, count

MAX_KEYS = 10_000


class LocalLimits:
    """GCRA for the share of this process: the quota divided by the number of workers.

    It keeps the 10,000 keys that were used last, so clients cannot fill the memory. `OrderedDict`
    is used because an operation of `cachetools` would take about ten times as long, and each
    response from the cache needs two.
    """

    def __init__(self) -> None:
        self._until: OrderedDict[str, int] = OrderedDict()  # microseconds of the monotonic clock

    def __len__(self) -> int:
        return len(self._until)

    def take(self, charges: Sequence[Charge]) -> list[Count]:
        """Count a request, or nothing of it if one of the limits refuses it."""
        now = time.monotonic_ns() // 1_000
        ahead = [self._ahead(charge.key, now) for charge in charges]
        pairs = list(zip(charges, ahead, strict=True))
        if any(charge.rule.local.wait(before) > 0 for charge, before in pairs):
            return [count(c.rule, c.rule.local, before, accepted=False) for c, before in pairs]
        return [
            count(c.rule, c.rule.local, self._add(c, now, before), accepted=True)
            for c, before in pairs
        ]

    def note(self, charges: Sequence[Charge]) -> None:
        """Count a request that Valkey has accepted, even if it is more than this share."""
        now = time.monotonic_ns() // 1_000
        for charge in charges:
            self._add(charge, now, self._ahead(charge.key, now))

    def give_back(self, charge: Charge) -> None:
        """Undo the count of one request."""
        if charge.key in self._until:
            self._until[charge.key] -= charge.rule.local.interval

    def _ahead(self, key: str, now: int) -> int:
        return max(0, self._until.get(key, now) - now)

    def _add(self, charge: Charge, now: int, ahead: int) -> int:
        pace = charge.rule.local
        ahead = min(ahead + pace.interval, pace.window)
        self._until[charge.key] = now + ahead
        self._until.move_to_end(charge.key)
        if len(self._until) > MAX_KEYS:
            self._until.popitem(last=False)
        return ahead
