"""The limits in the memory of a process."""

from app.infra.rate_limits.limit import Charge, Pace, Rule
from app.infra.rate_limits.local import MAX_KEYS, LocalLimits

PACE = Pace.of(2, 86_400)
RULE = Rule("limit", PACE, PACE, "limit:", "")


def test_request_that_was_not_counted_can_be_given_back() -> None:
    """Its count may have made room for those of other clients in the meantime."""
    limits = LocalLimits()
    limits.give_back(Charge(RULE, "a"))
    assert [count.wait for count in limits.take([Charge(RULE, "a")])] == [0]


def test_keys_that_were_used_last_are_kept() -> None:
    limits = LocalLimits()
    for number in range(MAX_KEYS + 1):
        limits.note([Charge(RULE, str(number))])
    assert len(limits) == MAX_KEYS
    remaining = [limits.take([Charge(RULE, key)])[0].remaining for key in ("0", str(MAX_KEYS))]
    assert remaining == [1, 0]
