"""Counts requests in Valkey, and in this process while Valkey does not answer."""

import logging
import time
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from hashlib import blake2b
from unicodedata import combining, normalize

from cachetools import LRUCache

from app.errors import Forbidden, RateLimited, Unauthenticated
from app.infra.observability.metrics import RATE_LIMITS_LOCAL, REFUSED
from app.infra.rate_limits.headers import announce, to_seconds
from app.infra.rate_limits.limit import Charge, Count, Limit, Pace, Rule
from app.infra.rate_limits.local import MAX_KEYS, LocalLimits
from app.infra.rate_limits.settings import ALL, RateLimitSettings
from app.infra.rate_limits.shared import NO_EVICTION, VALKEY_ERRORS, SharedLimits

logger = logging.getLogger(__name__)


class RateLimiter:
    """The rate limits of one process.

    `shared` is None if there is no Valkey. The local limits of an instance add up to the quota:
    each of its `workers` allows its share, and at least one request. `hash_key` is the key of the
    hashes that stand for accounts, so that Valkey contains no e-mail address.
    """

    def __init__(
        self,
        settings: RateLimitSettings,
        shared: SharedLimits | None,
        *,
        namespace: str,
        workers: int,
        hash_key: bytes,
    ) -> None:
        self._settings = settings
        self._shared = shared
        self._stand_in = LocalLimits()
        self._accounts = LocalLimits()  # apart, so that many addresses cannot evict them
        self._hits = LocalLimits()
        self._refused_until: LRUCache[str, int] = LRUCache(MAX_KEYS)
        self._namespace = namespace
        self._workers = workers
        self._hash_key = blake2b(hash_key).digest()
        self._rules: dict[str, Rule] = {}

    def charge(self, limit: Limit, subject: str) -> Charge:
        """Return what counts one request of `subject`, which is a user or an address."""
        rule = self._rules.get(limit.name) or self._rule_of(limit)
        return Charge(rule, rule.prefix + subject)

    async def take(self, charges: Sequence[Charge]) -> list[Count]:
        """Count a request. It is refused if one of the counts has a positive `wait`.

        A client that Valkey has refused is refused without asking again until its wait has passed.
        """
        if refused := self._known_refusal(charges):
            return [refused]
        counts = None if self._shared is None else await self._shared.take(charges)
        if counts is None:
            return self._stand_in.take(charges)
        now = time.monotonic_ns() // 1_000
        for charge, count in zip(charges, counts, strict=True):
            if count.wait:
                self._refused_until[charge.key] = now + count.wait
        if not any(count.wait for count in counts):
            self._stand_in.note(charges)  # so that the stand-in does not begin with a full quota
        return counts

    def take_hit(self, charges: Sequence[Charge]) -> list[Count]:
        """Count a response from the cache, in this process only."""
        return self._hits.take(charges)

    async def count(self, limit: Limit, account: str) -> None:
        """Count an action of an account, or raise `RateLimited` when the quota is used up."""
        await self._take_of_account(self.charge(limit, self._hash(account)))

    @asynccontextmanager
    async def counting_failures(self, limit: Limit, account: str) -> AsyncIterator[None]:
        """Count the block if it raises `Unauthenticated` or `Forbidden`.

        Raise `RateLimited` when the quota is used up. The attempt is counted before the block, and
        given back after a success. Otherwise a thousand parallel guesses would all find the quota
        unused. An attempt that is cancelled stays counted.
        """
        charge = self.charge(limit, self._hash(account))
        in_valkey = await self._take_of_account(charge)
        try:
            yield
        except (Unauthenticated, Forbidden):
            raise
        except Exception:
            await self._give_back(charge, in_valkey=in_valkey)
            raise
        await self._give_back(charge, in_valkey=in_valkey)

    async def check(self, limits: Collection[str]) -> None:
        """Warn if the server is not right for limits, or a setting names none of these `limits`."""
        if unknown := self._settings.by_name.keys() - {*limits, ALL}:
            logger.warning(
                "RATE_LIMITS_QUOTAS names %s, and no route declares that. The limits are: %s.",
                ", ".join(sorted(unknown)),
                ", ".join(sorted(limits)),
            )
        if self._shared is None:
            logger.warning(
                "Each worker counts its rate limits for itself, because there is no Valkey for "
                "them. Set RATE_LIMITS_URL to share them."
            )
            return
        try:
            found = await self._shared.read_configuration()
        except VALKEY_ERRORS as error:
            logger.warning(
                "The Valkey of the rate limits was not reached (%s). Each worker counts for itself "
                "until it is. If that does not happen soon, correct RATE_LIMITS_URL.",
                type(error).__name__,
            )
            return
        if found.is_cluster:
            logger.warning(
                "The Valkey of the rate limits is a node of a cluster. It cannot count the limits "
                "of a request whose keys are on several nodes, and then each worker counts for "
                "itself. Set RATE_LIMITS_URL to a server that is not a cluster."
            )
        if found.eviction_policy != NO_EVICTION:
            logger.warning(
                "The Valkey of the rate limits evicts keys (maxmemory-policy %s). A client whose "
                "key is evicted gets its whole quota again. Set RATE_LIMITS_URL to a server with "
                "maxmemory-policy noeviction.",
                found.eviction_policy,
            )

    def measure(self) -> None:
        RATE_LIMITS_LOCAL.set(self._shared is not None and self._shared.is_away)

    async def aclose(self) -> None:
        if self._shared is not None:
            await self._shared.close()

    def _rule_of(self, limit: Limit) -> Rule:
        quota, seconds = self._settings.quota_of(limit)
        share = max(1, quota // self._workers)
        rule = Rule(
            limit.name,
            shared=Pace.of(quota, seconds),
            local=Pace.of(share, seconds),
            prefix=f"{self._namespace}:rate_limit:{limit.name}:",
            policy=f'"{limit.name}";q={quota};w={seconds}',
        )
        self._rules[limit.name] = rule
        return rule

    def _hash(self, account: str) -> str:
        """Hash the name of an account. Names that differ in case or accents only count as one.

        Databases do not agree on how to lower `İ`, and each way to write an account that had a
        count of its own would allow more guesses.
        """
        letters = normalize("NFKD", account.casefold())
        folded = "".join(letter for letter in letters if not combining(letter))
        return blake2b(folded.encode(), key=self._hash_key, digest_size=16).hexdigest()

    def _known_refusal(self, charges: Sequence[Charge]) -> Count | None:
        if not self._refused_until:
            return None
        now = time.monotonic_ns() // 1_000
        for charge in charges:
            wait = self._refused_until.get(charge.key, now) - now
            if wait > 0:
                pace = charge.rule.shared
                return Count(charge.rule, 0, wait + pace.window - pace.interval, wait)
        return None

    async def _take_of_account(self, charge: Charge) -> bool:
        """Count an action, or raise `RateLimited`. Return whether Valkey has counted it."""
        counts = None if self._shared is None else await self._shared.take([charge])
        answered = self._accounts.take([charge]) if counts is None else counts
        if refusal := refusal_of(answered):
            announce(answered)
            raise refusal
        if counts is not None:
            self._accounts.note([charge])
        return counts is not None

    async def _give_back(self, charge: Charge, *, in_valkey: bool) -> None:
        self._accounts.give_back(charge)
        if in_valkey and self._shared is not None:
            await self._shared.give_back(charge)


def refusal_of(counts: Sequence[Count]) -> RateLimited | None:
    """Return the error for a refused request, and count it. None if no limit refuses it."""
    refusing = [count for count in counts if count.wait]
    if not refusing:
        return None
    longest = max(refusing, key=lambda count: count.wait)
    REFUSED.labels(longest.rule.name).inc()
    return RateLimited(to_seconds(longest.wait))
