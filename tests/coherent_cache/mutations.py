"""The broken functions. Each lacks one safeguard, and otherwise does what the real one does."""

import asyncio
from typing import Any

from coherent_cache import entry as entry_module
from coherent_cache import store, trust
from coherent_cache.budget import Budget
from coherent_cache.channel import Channel
from coherent_cache.entry import TOKEN_BYTES, Entry
from coherent_cache.memory import Memory
from coherent_cache.reader import Answer, Reader, Source
from coherent_cache.store import Store
from coherent_cache.trust import Trust
from tests.coherent_cache.mutation import Mutation, broken, broken_lua, wrapped


async def _is_always_valid(_self: Store, _copy: Entry) -> bool:
    return True


def _look_up_before_the_load_begins(run_load: Any) -> Any:
    """The load still accepts readers during its look-up."""

    async def run(self: Reader, key: str, *arguments: Any) -> Answer:
        previous = self._running.get(key)
        if previous is not None:
            await asyncio.wait({previous})
            found = await self._look_up(key, Budget(self._config))
            if isinstance(found, Entry):
                return Answer(found, Source.VALKEY)
        answer: Answer = await run_load(self, key, *arguments)
        return answer

    return run


def _keep_whatever_is_found(look_up: Any) -> Any:
    async def run(self: Reader, key: str, budget: Budget) -> Any:
        found = await look_up(self, key, budget)
        if isinstance(found, Entry):
            self._memory.put(found, self._memory.begin_read())
        return found

    return run


def _keep_whatever_is_stored(fill: Any) -> Any:
    async def run(self: Reader, entry: Entry, *arguments: Any) -> bool:
        is_stored: bool = await fill(self, entry, *arguments)
        if is_stored:
            self._memory.put(entry, self._memory.begin_read())
        return is_stored

    return run


def _clear_only_the_entries(self: Memory) -> None:
    self._clock += 1
    self._entries.clear()


def _ignore_subscriptions(handle: Any) -> Any:
    def run(self: Channel, message: dict[str, Any]) -> None:
        if message["type"] != "subscribe":
            handle(self, message)

    return run


def _join_a_running_load(self: Reader, key: str) -> asyncio.Task[Answer] | None:
    return self._waiting.get(key) or self._running.get(key)


def _get_from_distrusted_memory(self: Reader, key: str) -> Entry | None:
    return self._memory.get(key) if self._channel.is_live else None


def _grant_for_ever(grant: Any) -> Any:
    def run(self: Trust, began: float) -> None:
        grant(self, began)
        self._until = float("inf")

    return run


def _grant_without_a_clear(self: Trust, began: float) -> None:
    self._until = began + trust.LEASE_SECONDS


def _ignore_the_age(polled: Any) -> Any:
    def run(self: Trust, began: float, _behind_seconds: float, *arguments: Any) -> None:
        polled(self, began, 0, *arguments)

    return run


TIMELESS_EPOCH = "local function new_epoch(random)\n  return random\nend\n"
LOG_THAT_IS_NEVER_MISSING = """local function read_log(log)
  local state = redis.call('HMGET', log, 'epoch', 'n', 'floor')
  if not state[1] then return ARGV[1], tonumber(ARGV[2]), 0 end
  return state[1], tonumber(state[2]), tonumber(state[3])
end
"""


def _lua_false(function: str) -> str:
    return f"local function {function}\n  return false\nend\n"


# By the safeguard that is missing.
MUTATIONS: dict[str, Mutation] = {
    "the log of invalidations": broken_lua("FILL", _lua_false("was_invalidated_since(n, latest)")),
    "refusal without a log": broken_lua("FILL", LOG_THAT_IS_NEVER_MISSING),
    "epoch of the log": broken_lua(
        "FILL", "local function is_same_log(epoch, leased_epoch)\n  return epoch\nend\n"
    ),
    "time in the epoch, LEASE": broken_lua("LEASE", TIMELESS_EPOCH),
    "time in the epoch, INVALIDATE": broken_lua("INVALIDATE", TIMELESS_EPOCH),
    "floor of the log": broken_lua("FILL", _lua_false("was_trimmed_since(n, floor)")),
    "detection of a log that was set back": broken_lua(
        "FILL", _lua_false("was_set_back(latest, last)")
    ),
    "repeatable LEASE": broken_lua("LEASE", _lua_false("is_own_lease(value, token)")),
    "checksum of an entry": broken(entry_module, "checksum_of", lambda *_: 0),
    "token check in a look-up": broken(store, "_has_tokens", lambda *_: True),
    "token check of a copy": broken(Store, "is_valid", _is_always_valid),
    "randomness of tokens": broken(store, "random_token", lambda: bytes(TOKEN_BYTES)),
    "no sharing of a running load": broken(Reader, "_load_to_join", _join_a_running_load),
    "look-up after a load begins": wrapped(Reader, "_run_load", _look_up_before_the_load_begins),
    "invalidations during a look-up": wrapped(Reader, "_look_up", _keep_whatever_is_found),
    "invalidations during a fill": wrapped(Reader, "_fill", _keep_whatever_is_stored),
    "reads in progress during a clear": broken(Memory, "clear", _clear_only_the_entries),
    "clear after a reconnect": wrapped(Channel, "handle", _ignore_subscriptions),
    "trust before a memory hit": broken(Reader, "get_from_memory", _get_from_distrusted_memory),
    "trust before a look-up": broken(
        Reader, "_may_look_up", lambda self: self._store.breaker.allows()
    ),
    "trust before a fill": broken(Reader, "_may_fill", lambda _self: True),
    "expiry of trust": wrapped(Trust, "_grant", _grant_for_ever),
    "clear when trust returns": broken(Trust, "_grant", _grant_without_a_clear),
    "age of the oldest change": wrapped(Trust, "polled", _ignore_the_age),
}
