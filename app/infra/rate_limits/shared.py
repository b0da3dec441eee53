"""Rate limits in Valkey, which all workers of all instances share."""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any

from redis.exceptions import RedisError

from app.infra.breaker import Breaker, BreakerOpen
from app.infra.observability.background import detached
from app.infra.rate_limits.limit import Charge, Count, count
from coherent_cache import MultiplexedRedis

logger = logging.getLogger(__name__)

VALKEY_ERRORS = (RedisError, OSError)
NO_EVICTION = "noeviction"
MAX_BATCH = 100  # requests

# Counts requests with GCRA. It uses the clock of Valkey, so the clocks of the instances do not
# matter. A request that one of its limits refuses is counted by none of them.
# KEYS  the keys of all limits of all requests
# ARGV  for each request: the number of its keys, then the interval and the window of each key
# Returns for each request 1 or 0, and then for each key how far its time is ahead of the clock.
# A value that is not a number counts as none. A time that is further ahead than the window, because
# a clock was changed, counts as one window.
TAKE = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local results, key, arg = {}, 0, 1
while arg <= #ARGV do
  local ahead, accepted, count = {}, 1, tonumber(ARGV[arg])
  for i = 1, count do
    local interval, window = tonumber(ARGV[arg + 2 * i - 1]), tonumber(ARGV[arg + 2 * i])
    local stored = tonumber(redis.pcall('GET', KEYS[key + i])) or now
    ahead[i] = math.min(math.max(stored - now, 0), window)
    if ahead[i] + interval > window then accepted = 0 end
  end
  table.insert(results, accepted)
  for i = 1, count do
    if accepted == 1 then
      ahead[i] = ahead[i] + tonumber(ARGV[arg + 2 * i - 1])
      local value = string.format('%.0f', now + ahead[i])
      redis.call('SET', KEYS[key + i], value, 'PX', math.ceil(ahead[i] / 1000))
    end
    table.insert(results, ahead[i])
  end
  key, arg = key + count, arg + 2 * count + 1
end
return results
"""

# Undoes the count of one request.
# KEYS  the key of a limit
# ARGV  the interval of the limit
GIVE_BACK = """
local stored = tonumber(redis.pcall('GET', KEYS[1]))
if stored then
  redis.call('SET', KEYS[1], string.format('%.0f', stored - ARGV[1]), 'KEEPTTL')
end
return 1
"""


@dataclass(frozen=True, slots=True)
class ServerConfiguration:
    """What the limits need to know of a Valkey. A node of a cluster does not own all keys."""

    eviction_policy: str
    is_cluster: bool


@dataclass(frozen=True, slots=True)
class _Waiting:
    charges: Sequence[Charge]
    counts: asyncio.Future[list[Count] | None]


class SharedLimits:
    """Requests that arrive while Valkey works on others are sent to it together, as one command.

    A command takes `timeout_seconds` at most, and twice as long if its connection has to be opened.
    """

    def __init__(self, url: str, timeout_seconds: float) -> None:
        self._valkey = MultiplexedRedis(url, timeout_seconds)
        self._take = self._valkey.register_script(TAKE)
        self._give_back = self._valkey.register_script(GIVE_BACK)
        self._breaker = Breaker(on_open=_log_failure, on_close=_log_recovery)
        self._queue: list[_Waiting] = []
        self._sender: asyncio.Task[None] | None = None

    @property
    def is_away(self) -> bool:
        """Whether Valkey has failed several times in a row."""
        return self._breaker.is_open

    async def take(self, charges: Sequence[Charge]) -> list[Count] | None:
        """Count a request, or nothing of it if one of the limits refuses it.

        Returns None if Valkey does not answer, or refuses to write.
        """
        if not self._breaker.admits:
            return None
        waiting = _Waiting(charges, asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        if self._sender is None or self._sender.done():
            self._sender = detached(self._send_queue())
        return await waiting.counts

    async def give_back(self, charge: Charge) -> None:
        """Undo the count of one request, if Valkey answers."""
        with suppress(BreakerOpen, *VALKEY_ERRORS), self._breaker.call():
            await self._give_back([charge.key], [charge.rule.shared.interval])

    async def read_configuration(self) -> ServerConfiguration:
        """Ask Valkey for its configuration, or raise one of VALKEY_ERRORS."""
        information: dict[str, Any] = await self._valkey.info()
        return ServerConfiguration(
            eviction_policy=str(information.get("maxmemory_policy", NO_EVICTION)),
            is_cluster=bool(information.get("cluster_enabled", 0)),
        )

    async def close(self) -> None:
        await self._valkey.aclose()

    async def _send_queue(self) -> None:
        while self._queue:
            batch, self._queue = self._queue[:MAX_BATCH], self._queue[MAX_BATCH:]
            results: Sequence[list[Count] | None] = [None] * len(batch)
            try:
                # Whatever the error is, the local limits stand in.
                with suppress(Exception), self._breaker.call():
                    results = await self._send(batch)
            finally:
                for waiting, counts in zip(batch, results, strict=True):
                    if not waiting.counts.done():
                        waiting.counts.set_result(counts)

    async def _send(self, batch: Sequence[_Waiting]) -> list[list[Count]]:
        keys, arguments = [], []
        for waiting in batch:
            arguments.append(len(waiting.charges))
            for rule, key in waiting.charges:
                keys.append(key)
                arguments += rule.shared
        replies = iter(await self._take(keys, arguments))
        return [_counts(waiting.charges, replies) for waiting in batch]


def _counts(charges: Sequence[Charge], replies: Any) -> list[Count]:
    accepted = next(replies) == 1
    return [
        count(charge.rule, charge.rule.shared, ahead, accepted=accepted)
        for charge, ahead in zip(charges, islice(replies, len(charges)), strict=True)
    ]


def _log_failure(error: Exception) -> None:
    logger.warning(
        "Valkey does not count the rate limits (%s: %s). Until it does, each worker counts for "
        "itself. If Valkey is running, correct RATE_LIMITS_URL.",
        type(error).__name__,
        str(error).partition("\n")[0],
    )


def _log_recovery() -> None:
    logger.warning("Valkey counts the rate limits again.")
