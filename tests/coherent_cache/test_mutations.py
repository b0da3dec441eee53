"""Each safeguard of the protocol is needed: without it, a short history ends in a stale read.

Each history keeps the guarantees with the real code, and breaks one of them when a mutation removes
the safeguard. The table therefore also explains why the safeguard exists.
"""

from collections.abc import Callable
from contextlib import closing

import pytest

from tests.coherent_cache import histories
from tests.coherent_cache.guarantees import BrokenGuarantee
from tests.coherent_cache.harness import Harness
from tests.coherent_cache.mutations import MUTATIONS
from tests.coherent_cache.world import World

History = Callable[[World], None]

HISTORIES: dict[str, History] = {
    "the log of invalidations": histories.changed_before_the_fill,
    "refusal without a log": histories.log_evicted_before_the_fill,
    "epoch of the log": histories.log_recreated_before_the_fill,
    "time in the epoch, LEASE": histories.log_recreated_by_a_repeated_lease,
    "time in the epoch, INVALIDATE": histories.log_recreated_by_a_repeated_invalidation,
    "floor of the log": histories.log_trimmed_before_the_fill,
    "detection of a log that was set back": histories.log_set_back_before_the_fill,
    "repeatable LEASE": histories.lease_sent_twice,
    "checksum of an entry": histories.damaged_after_the_fill,
    "token check in a look-up": histories.changed_after_the_fill,
    "token check of a copy": histories.changed_while_memory_holds_a_copy,
    "randomness of tokens": histories.tag_shared_by_two_entries,
    "no sharing of a running load": histories.read_begun_during_a_load,
    "look-up after a load begins": histories.changed_during_a_second_look_up,
    "invalidations during a look-up": histories.invalidated_during_a_look_up,
    "invalidations during a fill": histories.invalidated_during_a_fill,
    "reads in progress during a clear": histories.missed_during_a_look_up,
    "clear after a reconnect": histories.missed_by_the_memory,
    "trust before a memory hit": histories.refused_while_memory_holds_the_entry,
    "trust before a look-up": histories.refused_while_valkey_holds_the_entry,
    "trust before a fill": histories.row_expired_during_a_load,
    "expiry of trust": histories.refused_while_a_process_is_suspended,
    "clear when trust returns": histories.refused_and_relayed_later,
    "age of the oldest change": histories.only_the_invalidation_is_refused,
}

every_safeguard = pytest.mark.parametrize("safeguard", HISTORIES)


@every_safeguard
def test_history_keeps_the_guarantees(safeguard: str, harness: Harness) -> None:
    with closing(World(harness)) as world:
        HISTORIES[safeguard](world)


@every_safeguard
def test_history_without_the_safeguard_breaks_a_guarantee(
    safeguard: str, harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    MUTATIONS[safeguard](monkeypatch)
    with closing(World(harness)) as world, pytest.raises(BrokenGuarantee):
        HISTORIES[safeguard](world)


def test_every_mutation_has_a_history() -> None:
    assert HISTORIES.keys() == MUTATIONS.keys()
