"""GCRA in Valkey: exact for any number of processes, and unharmed by damaged keys."""

import asyncio
import os
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest
from redis.asyncio import Redis

from app.infra.rate_limits.limit import Charge, Count, Limit, Pace, Rule
from app.infra.rate_limits.limiter import RateLimiter
from app.infra.rate_limits.shared import SharedLimits
from tests.infra.rate_limits.conftest import MakeLimiter, user

SLOW = Limit("slow", quota=100, seconds=86_400)  # it gives nothing back while a test runs
OTHER = Limit("other", quota=3, seconds=86_400)


@pytest.fixture
async def valkey() -> AsyncIterator[Redis]:
    async with Redis.from_url(os.environ["TEST_RATE_LIMITS_URL"]) as valkey:
        yield valkey


async def accepted(limiter: RateLimiter, *charges: Charge) -> bool:
    return not any(count.wait for count in await limiter.take(charges))


async def test_two_processes_accept_exactly_the_quota(make_limiter: MakeLimiter) -> None:
    processes = [make_limiter(workers=2), make_limiter(workers=2)]
    asked = [
        accepted(process, process.charge(SLOW, "1.2.3.4"))
        for _ in range(300)
        for process in processes
    ]
    assert sum(await asyncio.gather(*asked)) == 100


async def test_a_request_that_one_limit_refuses_counts_for_none(make_limiter: MakeLimiter) -> None:
    limiter = make_limiter()
    both = [limiter.charge(SLOW, "a"), limiter.charge(OTHER, "a")]
    for _ in range(10):
        await limiter.take(both)
    [count] = await limiter.take(both[:1])
    assert count.remaining == 100 - 3 - 1


async def test_quota_comes_back_evenly(make_limiter: MakeLimiter) -> None:
    limiter = make_limiter(quotas="slow=2/2")
    charge = limiter.charge(SLOW, "a")
    assert [await accepted(limiter, charge) for _ in range(3)] == [True, True, False]
    [refused] = await limiter.take([charge])
    assert 0 < refused.wait <= 1_000_000  # microseconds: one request a second
    await asyncio.sleep(refused.wait / 1e6)
    assert [await accepted(limiter, charge) for _ in range(2)] == [True, False]


async def test_a_count_tells_what_remains_and_when_all_is_back(make_limiter: MakeLimiter) -> None:
    limiter = make_limiter(quotas="slow=4/400")
    counts = [(await limiter.take([limiter.charge(SLOW, "a")]))[0] for _ in range(5)]
    assert [count.remaining for count in counts] == [3, 2, 1, 0, 0]
    assert [round(count.reset / 1e6) for count in counts] == [100, 200, 300, 400, 400]
    assert [round(count.wait / 1e6) for count in counts] == [0, 0, 0, 0, 100]


@pytest.mark.parametrize("quota", [1, 3, 7, 999])
async def test_rounding_takes_no_request_away(make_limiter: MakeLimiter, quota: int) -> None:
    limiter = make_limiter(quotas=f"slow={quota}/86400")
    asked = (accepted(limiter, limiter.charge(SLOW, "a")) for _ in range(quota + 1))
    assert sum(await asyncio.gather(*asked)) == quota


def key_of(limiter: RateLimiter) -> str:
    return limiter.charge(SLOW, "a").key


@pytest.mark.parametrize("damage", ["a word", "list", "-5", ""])
async def test_a_damaged_key_counts_as_none(
    make_limiter: MakeLimiter, valkey: Redis, damage: str
) -> None:
    limiter = make_limiter(workers=10)  # the local limit would leave 9
    if damage == "list":
        await valkey.rpush(key_of(limiter), "x")
    else:
        await valkey.set(key_of(limiter), damage)
    [count] = await limiter.take([limiter.charge(SLOW, "a")])
    assert count.remaining == 99


async def test_a_time_that_is_far_ahead_counts_as_one_window(
    make_limiter: MakeLimiter, valkey: Redis
) -> None:
    limiter = make_limiter()
    await valkey.set(key_of(limiter), "9" * 30)
    [count] = await limiter.take([limiter.charge(SLOW, "a")])
    assert 0 < count.wait <= 864_000_000  # microseconds: one hundredth of the window


async def test_keys_expire_when_the_quota_is_whole_again(
    make_limiter: MakeLimiter, valkey: Redis
) -> None:
    limiter = make_limiter()
    await limiter.take([limiter.charge(SLOW, "a")])
    assert 0 < await valkey.ttl(key_of(limiter)) <= 864


async def test_close_ends_the_connection_to_valkey() -> None:
    async with user("+@all") as (url, valkey):

        async def is_connected() -> bool:
            return urlsplit(url).username in {one["user"] for one in await valkey.client_list()}

        limits = SharedLimits(url, 5)
        await limits.read_configuration()
        assert await is_connected()
        await limits.close()
        async with asyncio.timeout(60):  # Valkey needs a moment
            while await is_connected():
                await asyncio.sleep(0.01)


async def test_a_cancelled_request_does_not_disturb_the_others(shared: SharedLimits) -> None:
    pace = Pace.of(100, 86_400)
    charge = Charge(Rule("slow", pace, pace, "", ""), os.urandom(8).hex())
    first = asyncio.create_task(shared.take([charge]))
    others = [asyncio.create_task(shared.take([charge])) for _ in range(20)]
    await asyncio.sleep(0)
    first.cancel()
    answers: list[list[Count] | None] = await asyncio.gather(*others)
    assert all(answers)
