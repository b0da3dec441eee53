"""While Valkey is away or refuses to write, each process counts its share: nothing is unlimited."""

import asyncio
import os
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from redis.asyncio import Redis

from app.errors import RateLimited, Unauthenticated, Unavailable
from app.infra.breaker import FAILURES_TO_OPEN
from app.infra.observability.metrics import RATE_LIMITS_LOCAL
from app.infra.rate_limits.limit import By, Limit
from app.infra.rate_limits.limiter import RateLimiter
from app.infra.rate_limits.local import MAX_KEYS
from app.infra.rate_limits.shared import MAX_BATCH
from tests.coherent_cache.worker import eventually
from tests.infra.rate_limits.conftest import MakeLimiter, user

LIMIT = Limit("limit", quota=10, seconds=86_400)
FAILURES = Limit("failures", quota=5, seconds=86_400, by=By.ACCOUNT)
NOWHERE = "redis://127.0.0.1:1/0"


async def accepted(limiter: RateLimiter, subject: str = "a", times: int = 50) -> int:
    counts = [await limiter.take([limiter.charge(LIMIT, subject)]) for _ in range(times)]
    return sum(not any(count.wait for count in one) for one in counts)


async def test_without_valkey_the_processes_share_the_quota(make_limiter: MakeLimiter) -> None:
    processes = [make_limiter(NOWHERE, workers=2) for _ in range(2)]
    assert [await accepted(process) for process in processes] == [5, 5]


async def test_a_share_is_at_least_one_request(make_limiter: MakeLimiter) -> None:
    assert await accepted(make_limiter(NOWHERE, workers=64)) == 1


async def test_a_server_that_is_not_configured_is_no_limit_less(make_limiter: MakeLimiter) -> None:
    assert await accepted(make_limiter(None, workers=2)) == 5


async def test_a_user_that_may_not_write_is_like_no_server(make_limiter: MakeLimiter) -> None:
    async with user("+@all", "-set") as (url, _):
        assert await accepted(make_limiter(url, workers=2)) == 5
    async with user("+@all", "-eval", "-evalsha") as (url, _):
        assert await accepted(make_limiter(url, workers=2)) == 5


async def test_a_server_that_never_answers_costs_three_timeouts_at_most(
    make_limiter: MakeLimiter,
) -> None:
    asked = 0

    async def be_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        await reader.read(-1)
        writer.close()

    async with await asyncio.start_server(be_silent, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        url = f"redis://127.0.0.1:{port}/0"
        limiter = make_limiter(url, workers=2, timeout_seconds=0.05)
        assert await accepted(limiter) == 5
        assert asked <= 4  # and perhaps a probe, on a busy machine
        await limiter.aclose()


async def test_checks_that_wait_do_not_wait_for_a_server_that_has_stopped_answering(
    make_limiter: MakeLimiter,
) -> None:
    asked = 0

    async def be_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        await reader.read(-1)
        writer.close()

    async with await asyncio.start_server(be_silent, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        limiter = make_limiter(f"redis://127.0.0.1:{port}/0", workers=2, timeout_seconds=0.05)
        charge = limiter.charge(LIMIT, "a")
        answers = await asyncio.gather(*(limiter.take([charge]) for _ in range(20 * MAX_BATCH)))
        assert sum(not count.wait for [count] in answers) == 5
        assert asked == FAILURES_TO_OPEN  # each command after a failure has a new connection
        await limiter.aclose()


async def test_requests_do_not_wait_for_the_probe_of_a_server_that_has_stopped_answering(
    make_limiter: MakeLimiter,
) -> None:
    is_silent, probed = False, asyncio.Event()

    async def fail_and_then_be_silent(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if is_silent:
            probed.set()
            await reader.read(-1)
        writer.close()

    async with await asyncio.start_server(fail_and_then_be_silent, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        limiter = make_limiter(f"redis://127.0.0.1:{port}/0", timeout_seconds=60)
        charge = limiter.charge(LIMIT, "a")
        for _ in range(FAILURES_TO_OPEN):
            await limiter.take([charge])
        is_silent, requests = True, []
        async with asyncio.timeout(30):
            while not probed.is_set():
                requests.append(asyncio.create_task(limiter.take([charge])))
                await asyncio.sleep(0.01)
            assert len(await limiter.take([charge])) == 1
        assert not all(request.done() for request in requests)  # one of them is the probe
        await limiter.aclose()
        for request in requests:
            request.cancel()


async def test_the_quota_that_was_used_before_the_failure_stays_used(
    make_limiter: MakeLimiter,
) -> None:
    async with user("+@all") as (url, admin):
        limiter = make_limiter(url)
        assert await accepted(limiter, times=8) == 8
        name = urlsplit(url).username
        await admin.execute_command("ACL", "SETUSER", name, "-@all")
        assert await accepted(limiter) == 2


async def test_a_client_that_valkey_has_refused_stays_refused_without_it(
    make_limiter: MakeLimiter,
) -> None:
    async with user("+@all") as (url, admin):
        one, other = make_limiter(url), make_limiter(url)
        assert await accepted(one) == 10
        assert await accepted(other, times=1) == 0
        await admin.execute_command("ACL", "SETUSER", urlsplit(url).username, "-@all")
        assert await accepted(other) == 0


async def test_valkey_counts_again_when_it_has_returned(make_limiter: MakeLimiter) -> None:
    async with user("+@all", "-evalsha") as (url, admin):
        limiter = make_limiter(url, workers=10)
        assert await accepted(limiter) == 1
        limiter.measure()
        assert RATE_LIMITS_LOCAL._value.get() == 1
        await admin.execute_command("ACL", "SETUSER", urlsplit(url).username, "+@all")

        async def is_shared() -> bool:
            await limiter.take([limiter.charge(LIMIT, uuid4().hex)])
            limiter.measure()
            return RATE_LIMITS_LOCAL._value.get() == 0  # type: ignore[no-any-return]

        async with asyncio.timeout(60):
            while not await is_shared():
                await asyncio.sleep(0.05)
        assert await accepted(limiter, "b") == 10


async def test_ten_thousand_addresses_do_not_fill_the_memory(make_limiter: MakeLimiter) -> None:
    limiter = make_limiter(None)
    for number in range(MAX_KEYS + 500):
        await limiter.take([limiter.charge(LIMIT, str(number))])
        limiter.take_hit([limiter.charge(LIMIT, str(number))])
    assert len(limiter._stand_in) == len(limiter._hits) == MAX_KEYS


async def test_responses_from_the_cache_count_in_the_process_alone(
    make_limiter: MakeLimiter,
) -> None:
    limiter, other = make_limiter(workers=2), make_limiter(workers=2)
    for one in (limiter, other):
        hits = [one.take_hit([one.charge(LIMIT, "a")]) for _ in range(20)]
        assert sum(not count.wait for [count] in hits) == 5
    assert await accepted(limiter) == 10


async def fail(limiter: RateLimiter, account: str = "ann@example.com") -> bool:
    """Return whether a wrong password was looked at."""
    try:
        async with limiter.counting_failures(FAILURES, account):
            await asyncio.sleep(0)
            raise Unauthenticated("wrong")
    except RateLimited:
        return False
    except Unauthenticated:
        return True


@pytest.mark.parametrize("is_away", [False, True])
async def test_parallel_guesses_do_not_exceed_the_quota_of_failures(
    make_limiter: MakeLimiter, is_away: bool
) -> None:
    url = NOWHERE if is_away else os.environ["TEST_RATE_LIMITS_URL"]
    limiter = make_limiter(url)
    assert sum(await asyncio.gather(*(fail(limiter) for _ in range(1_000)))) == 5


@pytest.mark.parametrize("was_there", [False, True])
async def test_many_addresses_do_not_reset_the_failures_of_an_account(
    make_limiter: MakeLimiter, was_there: bool
) -> None:
    async with user("+@all") as (url, admin):
        limiter = make_limiter(url if was_there else NOWHERE)
        assert [await fail(limiter) for _ in range(6)] == [True] * 5 + [False]
        if was_there:
            await admin.execute_command("ACL", "SETUSER", urlsplit(url).username, "-@all")
        for number in range(MAX_KEYS + 10):
            await limiter.take([limiter.charge(LIMIT, str(number))])
        assert not await fail(limiter)


async def test_attempts_that_do_not_count_do_not_reset_the_failures_of_another_account(
    make_limiter: MakeLimiter,
) -> None:
    limiter = make_limiter(NOWHERE)
    assert [await fail(limiter) for _ in range(6)] == [True] * 5 + [False]
    for number in range(MAX_KEYS + 10):
        with pytest.raises(Unavailable):
            async with limiter.counting_failures(FAILURES, f"{number}@example.com"):
                raise Unavailable("Too many passwords wait.")
    assert not await fail(limiter)


async def test_actions_of_an_account_are_counted_for_it_alone(make_limiter: MakeLimiter) -> None:
    for url in (NOWHERE, os.environ["TEST_RATE_LIMITS_URL"]):
        limiter = make_limiter(url)
        for _ in range(5):
            await limiter.count(FAILURES, "ann")
        with pytest.raises(RateLimited):
            await limiter.count(FAILURES, "ann")
        await limiter.count(FAILURES, "bob")


@pytest.mark.parametrize("is_away", [False, True])
async def test_successes_and_failures_of_the_service_do_not_count(
    make_limiter: MakeLimiter, is_away: bool
) -> None:
    url = NOWHERE if is_away else os.environ["TEST_RATE_LIMITS_URL"]
    limiter = make_limiter(url)
    for _ in range(20):
        async with limiter.counting_failures(FAILURES, "ann@example.com"):
            pass
        with pytest.raises(Unavailable):
            async with limiter.counting_failures(FAILURES, "ann@example.com"):
                raise Unavailable("The database cannot be reached.")
    assert [await fail(limiter) for _ in range(6)] == [True] * 5 + [False]


async def test_a_cancelled_attempt_counts(make_limiter: MakeLimiter) -> None:
    limiter = make_limiter()

    async def attempt() -> None:
        async with limiter.counting_failures(FAILURES, "ann@example.com"):
            await asyncio.Event().wait()

    tasks = [asyncio.create_task(attempt()) for _ in range(5)]
    await eventually(lambda: not limiter._shared._queue)  # type: ignore[union-attr]
    await asyncio.sleep(0.1)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert not await fail(limiter)


@pytest.mark.parametrize(
    "written", ["ANN@example.com", "Ann@EXAMPLE.com", "ánn@example.com"], ids=ascii
)
async def test_an_account_has_one_count_however_it_is_written(
    make_limiter: MakeLimiter, written: str
) -> None:
    limiter = make_limiter()
    assert [await fail(limiter) for _ in range(5)] == [True] * 5
    assert not await fail(limiter, written)
    assert await fail(limiter, "bob@example.com")


async def test_no_address_of_an_account_is_stored(
    make_limiter: MakeLimiter, namespace: str
) -> None:
    limiter = make_limiter()
    await fail(limiter, "ann@example.com")
    async with Redis.from_url(os.environ["TEST_RATE_LIMITS_URL"]) as valkey:
        [key] = [key async for key in valkey.scan_iter(f"{namespace}:*", count=10_000)]
    assert b"ann" not in key
    assert b"example" not in key
