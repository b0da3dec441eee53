"""Each safeguard of the protocol is needed: without it, a short history ends in a stale read.

Each history keeps the guarantees with the real code, and breaks one of them when a mutation removes
the safeguard. The table therefore also explains why a line of the protocol exists.
"""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

import pytest

from coherent_cache import scripts, store
from coherent_cache.channel import Channel
from coherent_cache.memory import Memory
from coherent_cache.reader import Reader
from coherent_cache.store import Store
from coherent_cache.trust import Trust
from tests.coherent_cache import histories
from tests.coherent_cache.guarantees import BrokenGuarantee
from tests.coherent_cache.harness import Harness
from tests.coherent_cache.mutation import Mutation
from tests.coherent_cache.world import World

History = Callable[[World], None]


@dataclass(frozen=True)
class Safeguard:
    """A history, and the mutation that removes the safeguard which the history needs."""

    history: History
    removal: Mutation


SAFEGUARDS = {
    "the log of invalidations": Safeguard(
        histories.changed_before_the_fill,
        Mutation(scripts, "FILL", "if latest > n then return false end", ""),
    ),
    "refusal without a log": Safeguard(
        histories.log_evicted_before_the_fill,
        Mutation(
            scripts,
            "FILL",
            "local n = tonumber(ARGV[2])",
            "local n = tonumber(ARGV[2])\nif not epoch then epoch, last, floor = ARGV[1], n, 0 end",
        ),
    ),
    "epoch of the log": Safeguard(
        histories.log_recreated_before_the_fill,
        Mutation(scripts, "FILL", "epoch ~= ARGV[1]", "not epoch"),
    ),
    "time in the epoch, LEASE": Safeguard(
        histories.log_recreated_by_a_repeated_lease,
        Mutation(scripts, "LEASE", "epoch = epoch .. time[1] .. '.' .. time[2]", ""),
    ),
    "time in the epoch, INVALIDATE": Safeguard(
        histories.log_recreated_by_a_repeated_invalidation,
        Mutation(scripts, "INVALIDATE", "epoch = epoch .. time[1] .. '.' .. time[2]", ""),
    ),
    "floor of the log": Safeguard(
        histories.log_trimmed_before_the_fill,
        Mutation(scripts, "FILL", " or n < floor", ""),
    ),
    "detection of a log that was set back": Safeguard(
        histories.log_set_back_before_the_fill,
        Mutation(scripts, "FILL", "if latest > last then", "if false then"),
    ),
    "checksum of an entry": Safeguard(
        histories.damaged_after_the_fill,
        Mutation(
            store,
            "decode_entry",
            "zlib.crc32(content, zlib.crc32(raw[1:tokens_at])) != checksum",
            "False",
        ),
    ),
    "token check in a look-up": Safeguard(
        histories.changed_after_the_fill,
        Mutation(Store, "look_up", "if _join(tokens) == entry.tokens", "if True"),
    ),
    "token check of a copy": Safeguard(
        histories.changed_while_memory_holds_a_copy,
        Mutation(
            Store,
            "is_valid",
            "_join(await self._mget(self._tag_keys(copy))) == copy.tokens",
            "True",
        ),
    ),
    "look-up before a load starts": Safeguard(
        histories.changed_during_a_second_look_up,
        Mutation(
            Reader,
            "_run_load",
            "task = self._running[key] = self._waiting.pop(key)",
            "again = await self._look_up(key, self._new_budget()) if before else miss\n"
            "    task = self._running[key] = self._waiting.pop(key)\n"
            "    if isinstance(again, Entry): return Answer(again, Source.VALKEY)",
        ),
    ),
    "randomness of tokens": Safeguard(
        histories.tag_shared_by_two_entries,
        Mutation(
            Store,
            "fill",
            "[_random_token() for _ in tag_keys]",
            "[bytes(TOKEN_BYTES) for _ in tag_keys]",
        ),
    ),
    "invalidations during a look-up": Safeguard(
        histories.invalidated_during_a_look_up,
        Mutation(Reader, "_look_up", "put(found, began)", "put(found, self._memory.begin_read())"),
    ),
    "invalidations during a fill": Safeguard(
        histories.invalidated_during_a_fill,
        Mutation(
            Reader, "_load_and_fill", "put(entry, began)", "put(entry, self._memory.begin_read())"
        ),
    ),
    "reads in progress during a clear": Safeguard(
        histories.missed_during_a_look_up,
        Mutation(Memory, "clear", "self._forget_invalidations()", "pass"),
    ),
    "clear after a reconnect": Safeguard(
        histories.missed_by_the_memory,
        Mutation(Channel, "handle", "self._memory.clear()", "pass"),
    ),
    "no sharing of a running load": Safeguard(
        histories.read_begun_during_a_load,
        Mutation(
            Reader,
            "read",
            "task = self._waiting.get(key)",
            "task = self._waiting.get(key) or self._running.get(key)",
        ),
    ),
    "repeatable LEASE": Safeguard(
        histories.lease_sent_twice,
        Mutation(
            scripts,
            "LEASE",
            "if string.sub(now, 2) ~= ARGV[1] then return {'WAIT'} end",
            "do return {'WAIT'} end",
        ),
    ),
}

SAFEGUARDS |= {
    "trust before a memory hit": Safeguard(
        histories.refused_while_memory_holds_the_entry,
        Mutation(Reader, "get_from_memory", "self._trust.holds and ", ""),
    ),
    "trust before a look-up": Safeguard(
        histories.refused_while_valkey_holds_the_entry,
        Mutation(Reader, "_look_up", "not self._trust.holds or ", ""),
    ),
    "trust before a fill": Safeguard(
        histories.row_expired_during_a_load,
        Mutation(Reader, "_load_and_fill", "self._trust.holds and ", ""),
    ),
    "expiry of trust": Safeguard(
        histories.refused_while_a_process_is_suspended,
        Mutation(Trust, "_grant", "began + LEASE_SECONDS", "float('inf')"),
    ),
    "clear when trust returns": Safeguard(
        histories.refused_and_relayed_later,
        Mutation(Trust, "_grant", "self._memory.clear()", "pass"),
    ),
    "age of the oldest change": Safeguard(
        histories.only_the_invalidation_is_refused,
        Mutation(Trust, "polled", "behind_seconds > MAX_BEHIND_SECONDS", "False"),
    ),
}

every_safeguard = pytest.mark.parametrize("safeguard", SAFEGUARDS.values(), ids=SAFEGUARDS.keys())


@every_safeguard
def test_history_keeps_the_guarantees(safeguard: Safeguard, harness: Harness) -> None:
    with closing(World(harness)) as world:
        safeguard.history(world)


@every_safeguard
def test_history_without_the_safeguard_breaks_a_guarantee(
    safeguard: Safeguard, harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    safeguard.removal.apply(monkeypatch)
    with closing(World(harness)) as world, pytest.raises(BrokenGuarantee):
        safeguard.history(world)
