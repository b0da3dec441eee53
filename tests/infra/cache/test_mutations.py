"""Each safeguard of the protocol is needed: without it a short history goes wrong.

A history is fine with the code as it is, and shows somebody too little with one line less. So this
is also the answer to "why is this line there?".
"""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

import pytest

from app.infra.cache import scripts, store
from app.infra.cache.channel import Channel
from app.infra.cache.memory import Memory
from app.infra.cache.read_through import ReadThrough
from app.infra.cache.store import Store
from app.infra.cache.trust import Trust
from tests.infra.cache import histories
from tests.infra.cache.laboratory import Laboratory
from tests.infra.cache.mutation import Mutation
from tests.infra.cache.world import World, Wrong

History = Callable[[World], None]


@dataclass(frozen=True)
class Safeguard:
    """A history, and the line without which it goes wrong."""

    history: History
    without: Mutation


SAFEGUARDS = {
    "log": Safeguard(
        histories.changed_before_the_fill,
        Mutation(scripts, "FILL", "if latest > n then return false end", ""),
    ),
    "missing log": Safeguard(
        histories.log_evicted_before_the_fill,
        Mutation(
            scripts,
            "FILL",
            "local n = tonumber(ARGV[2])",
            "local n = tonumber(ARGV[2])\nif not epoch then epoch, last, floor = ARGV[1], n, 0 end",
        ),
    ),
    "epoch": Safeguard(
        histories.log_made_anew_before_the_fill,
        Mutation(scripts, "FILL", "epoch ~= ARGV[1]", "not epoch"),
    ),
    "time in an epoch, LEASE": Safeguard(
        histories.log_made_anew_by_a_late_lease,
        Mutation(scripts, "LEASE", "epoch = epoch .. time[1] .. '.' .. time[2]", ""),
    ),
    "time in an epoch, INVALIDATE": Safeguard(
        histories.log_made_anew_by_a_late_invalidation,
        Mutation(scripts, "INVALIDATE", "epoch = epoch .. time[1] .. '.' .. time[2]", ""),
    ),
    "floor": Safeguard(
        histories.log_trimmed_before_the_fill,
        Mutation(scripts, "FILL", " or n < floor", ""),
    ),
    "log that counts backwards": Safeguard(
        histories.log_set_back_before_the_fill,
        Mutation(scripts, "FILL", "if latest > last then", "if false then"),
    ),
    "checksum": Safeguard(
        histories.damaged_after_the_fill,
        Mutation(
            store,
            "read_stored",
            "zlib.crc32(content, zlib.crc32(raw[1:tokens_at])) != checksum",
            "False",
        ),
    ),
    "token check": Safeguard(
        histories.changed_after_the_fill,
        Mutation(Store, "look_up", "if _joined(tokens) == entry.tokens", "if True"),
    ),
    "token check of a copy": Safeguard(
        histories.changed_behind_a_copy,
        Mutation(
            Store, "is_valid", "_joined(await self._mget(self._names(copy))) == copy.tokens", "True"
        ),
    ),
    "look up after a load": Safeguard(
        histories.changed_during_a_second_look_up,
        Mutation(
            ReadThrough,
            "_run",
            "task = self._running[key] = self._waiting.pop(key)",
            "again = await self._look_up(key, self._new_budget()) if before else miss\n"
            "    task = self._running[key] = self._waiting.pop(key)\n"
            "    if isinstance(again, Entry): return Answer(again, Source.VALKEY)",
        ),
    ),
    "random tokens": Safeguard(
        histories.tag_shared_by_two_entries,
        Mutation(
            Store, "fill", "[_random() for _ in names]", "[bytes(TOKEN_BYTES) for _ in names]"
        ),
    ),
    "heard, look-up": Safeguard(
        histories.heard_during_a_look_up,
        Mutation(ReadThrough, "_look_up", "put(found, began)", "put(found, self._memory.begin())"),
    ),
    "heard, fill": Safeguard(
        histories.heard_during_a_fill,
        Mutation(
            ReadThrough, "_load_and_fill", "put(entry, began)", "put(entry, self._memory.begin())"
        ),
    ),
    "clear is heard": Safeguard(
        histories.missed_during_a_look_up,
        Mutation(Memory, "clear", "self._forget_what_was_heard()", "pass"),
    ),
    "clear on subscribe": Safeguard(
        histories.missed_by_a_memory,
        Mutation(Channel, "hear", "self._memory.clear()", "pass"),
    ),
    "sharing": Safeguard(
        histories.late_comer,
        Mutation(
            ReadThrough,
            "read",
            "task = self._waiting.get(key)",
            "task = self._waiting.get(key) or self._running.get(key)",
        ),
    ),
    "own token": Safeguard(
        histories.lease_asked_for_twice,
        Mutation(
            scripts,
            "LEASE",
            "if string.sub(now, 2) ~= ARGV[1] then return {'WAIT'} end",
            "do return {'WAIT'} end",
        ),
    ),
}

SAFEGUARDS |= {
    "trust, memory": Safeguard(
        histories.refused_behind_a_memory,
        Mutation(ReadThrough, "remembered", "self._trust.holds and ", ""),
    ),
    "trust, look-up": Safeguard(
        histories.refused_behind_an_entry,
        Mutation(ReadThrough, "_look_up", "not self._trust.holds or ", ""),
    ),
    "trust, fill": Safeguard(
        histories.given_up_during_a_load,
        Mutation(ReadThrough, "_load_and_fill", "self._trust.holds and ", ""),
    ),
    "trust is a lease": Safeguard(
        histories.refused_while_a_process_is_stopped,
        Mutation(Trust, "_grant", "began + LEASE_SECONDS", "float('inf')"),
    ),
    "clear when trust returns": Safeguard(
        histories.refused_and_made_up_for,
        Mutation(Trust, "_grant", "self._memory.clear()", "pass"),
    ),
    "look at the outbox": Safeguard(
        histories.refused_though_other_writes_are_not,
        Mutation(Trust, "looked", "behind_seconds > BEHIND_SECONDS", "False"),
    ),
}

every_safeguard = pytest.mark.parametrize("safeguard", SAFEGUARDS.values(), ids=SAFEGUARDS.keys())


@every_safeguard
def test_the_history_is_fine(safeguard: Safeguard, laboratory: Laboratory) -> None:
    with closing(World(laboratory)) as world:
        safeguard.history(world)


@every_safeguard
def test_without_the_safeguard_it_is_not(
    safeguard: Safeguard, laboratory: Laboratory, monkeypatch: pytest.MonkeyPatch
) -> None:
    safeguard.without.apply(monkeypatch)
    with closing(World(laboratory)) as world, pytest.raises(Wrong):
        safeguard.history(world)
