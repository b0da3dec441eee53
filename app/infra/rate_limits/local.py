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
        now, until = time.monotonic_ns() // 1_000, self._until
        counts = []
        for rule, key in charges:
            ahead = max(until.get(key, 0) - now, 0)
            if ahead + rule.local.interval > rule.local.window:
                return self._refuse(charges, now)
            counts.append(count(rule, rule.local, ahead + rule.local.interval, accepted=True))
        for (_, key), counted in zip(charges, counts, strict=True):
            self._store(key, now + counted.reset)
        return counts

    def note(self, charges: Sequence[Charge]) -> None:
        """Count a request that Valkey has accepted, even if it is more than this share."""
        now = time.monotonic_ns() // 1_000
        for rule, key in charges:
            ahead = max(self._until.get(key, 0) - now, 0) + rule.local.interval
            self._store(key, now + min(ahead, rule.local.window))

    def give_back(self, charge: Charge) -> None:
        """Undo the count of one request. A key without a count is not kept."""
        if (until := self._until.get(charge.key)) is None:
            return
        until -= charge.rule.local.interval
        if until > time.monotonic_ns() // 1_000:
            self._until[charge.key] = until
        else:
            del self._until[charge.key]

    def _refuse(self, charges: Sequence[Charge], now: int) -> list[Count]:
        return [
            count(rule, rule.local, max(self._until.get(key, 0) - now, 0), accepted=False)
            for rule, key in charges
        ]

    def _store(self, key: str, until: int) -> None:
        self._until[key] = until
        self._until.move_to_end(key)
        if len(self._until) > MAX_KEYS:
            self._until.popitem(last=False)
