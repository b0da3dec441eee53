"""Rate limits: how exact they are, and what holds while their Valkey is away or refuses writes."""

import asyncio
import random
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx2
import pytest

from app.features.users.service import PASSWORD_FAILURES
from app.infra.rate_limits.settings import RateLimitSettings
from dev.valkey import NO_EVICTION
from tests.faults.author import sign_up
from tests.faults.conftest import Judge, Serve
from tests.faults.load import Answer, constantly, late, percentile, slowest, timed, unexpected
from tests.faults.service import WORKERS, Service, resident_mib
from tests.faults.test_valkey_refuses import REFUSALS
from tests.faults.valkey import Valkey, open_own_valkey
from tests.faults.verdicts import GUARDED

pytestmark = pytest.mark.faults
PATH = "/faults/sleep/0"  # it is not cached
CLIENT, NETWORK = "203.0.113.9", "2001:db8:0:1:"
AT_ONCE = 64
DAY = 86_400
QUOTA, WINDOW_SECONDS, SENT, TOLERANCE = 500, 60, 2_000, 0.05
ADDRESSES, NETWORK_QUOTA, GROWTH_MIB = 10_000, 100, 10
GUESSES, FAILURES = 1_000, PASSWORD_FAILURES.quota
ACCOUNT_LIMIT = f"password_failures={FAILURES}/{DAY}"
TIMEOUT_SECONDS = RateLimitSettings().timeout_seconds
# Three commands of each worker time out until its breaker opens. A command waits for another one.
ADDED_SECONDS = 2 * TIMEOUT_SECONDS + 0.05
RATE, CALM_SECONDS, RECOVERY_SECONDS = 40, 3, 3.0

Step = Callable[[Valkey], Awaitable[None]]


@pytest.fixture(scope="module")
def valkey() -> Iterator[Valkey]:
    """A Valkey for the limits alone."""
    with TemporaryDirectory() as folder:
        saves = Path(folder) / "saves"
        saves.mkdir()
        with open_own_valkey(Path(folder), more=f"{NO_EVICTION}dir {saves}\n") as valkey:
            yield valkey


@pytest.fixture
async def serve_limited(serve: Serve, valkey: Valkey) -> AsyncIterator[Serve]:
    """Serve with the given quotas. The keys of the limits are in `valkey`, which is empty."""
    await valkey.returned()
    await valkey.ask("FLUSHALL")

    def serve_with(control: str, quotas: str) -> AbstractAsyncContextManager[Service]:
        limits = {"url": valkey.url, "quotas": f"{quotas},*=1000000/1"}
        return serve(control, rate_limits=limits)

    yield serve_with
    valkey.thaw()


async def at_once(requests: Iterator[Callable[[], Awaitable[Answer]]]) -> list[Answer]:
    """Send all requests, AT_ONCE at a time."""
    answers: list[Answer] = []

    async def send() -> None:
        for request in requests:
            answer = await request()
            answers.append(answer)

    await asyncio.gather(*(send() for _ in range(AT_ONCE)))
    return answers


def get(service: Service, address: str) -> Callable[[], Awaitable[Answer]]:
    return partial(timed, service.client, "GET", PATH, headers={"X-Forwarded-For": address})


def guess(service: Service, email: str, address: str) -> Callable[[], Awaitable[Answer]]:
    form = {"username": email, "password": "a wrong password"}
    headers = {"X-Forwarded-For": address}
    return partial(timed, service.client, "POST", "/v1/auth/token", data=form, headers=headers)


def counts(answers: list[Answer]) -> str:
    found = Counter(answer.status for answer in answers)
    return ", ".join(f"{times} × status {status}" for status, times in sorted(found.items()))


async def until_refused_or_checked(request: Callable[[], Awaitable[Answer]]) -> Answer:
    """Send a guess again while the service has too much to do (503)."""
    while (answer := await request()).status == 503:
        await asyncio.sleep(0.1)
    return answer


@pytest.mark.parametrize("control", [GUARDED, "with a whole quota in each worker"])
async def test_two_workers_accept_the_quota_together(
    serve_limited: Serve, judge: Judge, control: str
) -> None:
    async with serve_limited(control, f"reads={QUOTA}/{WINDOW_SECONDS}") as service:
        began = time.monotonic()
        answers = await at_once(get(service, CLIENT) for _ in range(SENT))
        seconds = time.monotonic() - began
    due = QUOTA * (1 + seconds / WINDOW_SECONDS)
    accepted = sum(answer.status == 200 for answer in answers)
    error = accepted / due - 1
    broken = [
        *[f"{accepted} requests were accepted, {error:+.1%}"] * (abs(error) > TOLERANCE),
        *unexpected(answers, (200, 429)),
    ]
    figure = (
        f"{accepted} of {SENT:,} requests were accepted in {seconds:.1f} s; the quota of {QUOTA} "
        f"in {WINDOW_SECONDS} s allows {due:.0f} ({error:+.1%})"
    )
    judge(f"One client sends {SENT:,} requests to {WORKERS} workers", control, figure, broken)


@pytest.mark.parametrize("control", [GUARDED, "with a quota for each IPv6 address"])
async def test_addresses_of_one_network_share_a_quota(
    serve_limited: Serve, valkey: Valkey, judge: Judge, control: str
) -> None:
    async with serve_limited(control, f"reads={NETWORK_QUOTA}/{DAY}") as service:
        workers = await service.processes()
        await at_once(get(service, f"203.0.113.{number}") for number in range(200))
        before = {worker: resident_mib(worker, "VmRSS") for worker in workers}
        answers = await at_once(
            get(service, f"{NETWORK}:{number:x}") for number in range(ADDRESSES)
        )
        grown = max(resident_mib(worker, "VmRSS") - before[worker] for worker in workers)
        keys = len(await valkey.ask("KEYS", f"*:reads:{NETWORK}*"))
    accepted = sum(answer.status == 200 for answer in answers)
    broken = [
        *[f"{accepted} requests were accepted"] * (accepted != NETWORK_QUOTA),
        *[f"{keys} keys in Valkey"] * (keys != 1),
        *[f"the memory of a worker grew by {grown:.0f} MiB"] * (grown > GROWTH_MIB),
        *unexpected(answers, (200, 429)),
    ]
    figure = (
        f"{accepted} requests were accepted (the quota is {NETWORK_QUOTA}), with {keys} key in "
        f"Valkey; the memory of a worker grew by {grown:.1f} MiB"
    )
    judge(f"{ADDRESSES:,} addresses of one /64 send a request each", control, figure, broken)


@pytest.mark.parametrize("control", [GUARDED, "with failed logins counted after the check"])
async def test_guesses_from_many_addresses_share_the_limit_of_the_account(
    serve_limited: Serve, judge: Judge, control: str
) -> None:
    async with serve_limited(control, ACCOUNT_LIMIT) as service:
        author = await sign_up(service.client)
        guesses = (
            guess(service, author.email, f"198.51.{number // 250}.{number % 250}")
            for number in range(GUESSES)
        )
        answers = await at_once(partial(until_refused_or_checked, one) for one in guesses)
    checked = sum(answer.status == 400 for answer in answers)
    broken = [
        *[f"{checked} passwords were checked"] * (checked > FAILURES),
        *["no password was checked"] * (not checked),
        *unexpected(answers, (400, 429)),
    ]
    figure = (
        f"{checked} passwords were checked (the quota is {FAILURES}): {counts(answers)}; slowest "
        f"response {slowest(answers):.2f} s"
    )
    judge(
        f"{GUESSES:,} passwords for one account, each from another address, {AT_ONCE} at a time",
        control,
        figure,
        broken,
    )


async def kill(valkey: Valkey) -> None:
    valkey.kill()


async def start_again(valkey: Valkey) -> None:
    valkey.start_again()
    await valkey.returned()


async def freeze(valkey: Valkey) -> None:
    valkey.freeze()


async def thaw(valkey: Valkey) -> None:
    valkey.thaw()


async def fill_memory(valkey: Valkey) -> None:
    await valkey.ask("CONFIG", "SET", "maxmemory", "1")


async def free_memory(valkey: Valkey) -> None:
    await valkey.ask("CONFIG", "SET", "maxmemory", "64mb")


FAULTS: dict[str, tuple[Step, Step]] = {
    "is killed": (kill, start_again),
    "does not answer": (freeze, thaw),
    "is full (OOM)": (fill_memory, free_memory),
    **{f"refuses writes ({error})": steps for error, steps in REFUSALS.items()},
}


async def shared_after(service: Service) -> float:
    """Return the seconds until Valkey counts for each worker again.

    Then a new client is told what the whole quota leaves, and not only the share of a worker.
    """
    began, requests = time.monotonic(), 4 * WORKERS
    while time.monotonic() < began + 10 * RECOVERY_SECONDS:
        headers = {"X-Forwarded-For": f"192.0.2.{random.randrange(256)}"}
        left: list[int] = []
        async with AsyncExitStack() as stack:
            for _ in range(requests):  # a new connection goes to the worker that has the fewest
                client = httpx2.AsyncClient(base_url=service.address.url, headers=headers)
                response = await (await stack.enter_async_context(client)).get(PATH)
                left += map(int, re.findall(r'"reads";r=(\d+)', response.headers["ratelimit"]))
        if left == [NETWORK_QUOTA - 1 - used for used in range(requests)]:
            return time.monotonic() - began
    return float("inf")


@pytest.mark.parametrize("control", [GUARDED, "without local limits"])
@pytest.mark.parametrize("fault", FAULTS)
async def test_local_limits_stand_in_while_valkey_does_not_count(
    serve_limited: Serve, valkey: Valkey, judge: Judge, fault: str, control: str
) -> None:
    break_it, repair_it = FAULTS[fault]
    others: list[Answer] = []
    quotas = f"reads={NETWORK_QUOTA}/{DAY},{ACCOUNT_LIMIT}"
    async with serve_limited(control, quotas) as service:
        author = await sign_up(service.client)

        def send_other(number: int) -> Awaitable[Answer]:
            return get(service, f"100.64.{number // 250}.{number % 250}")()

        try:
            async with constantly(RATE, send_other, others):
                await asyncio.sleep(CALM_SECONDS)
                broken_at = asyncio.get_running_loop().time()
                await break_it(valkey)
                await asyncio.sleep(CALM_SECONDS)
            # The flood would delay the other clients more than the fault does.
            guesses = await at_once(
                guess(service, author.email, f"198.51.100.{number}") for number in range(200)
            )
            requests = await at_once(get(service, CLIENT) for _ in range(1_000))
        finally:
            await repair_it(valkey)
        recovered = await shared_after(service)
    checked = sum(answer.status == 400 for answer in guesses)
    accepted = sum(answer.status == 200 for answer in requests)
    before = [answer for answer in others if answer.sent_at < broken_at]
    since = [answer for answer in others if answer.sent_at >= broken_at]
    worst = slowest(before) + ADDED_SECONDS
    broken = [
        *[f"{checked} wrong passwords were checked"] * (not 1 <= checked <= FAILURES),
        *[f"{accepted} requests of one client were accepted"]
        * (not 1 <= accepted <= NETWORK_QUOTA),
        *late("Valkey counted again", recovered, RECOVERY_SECONDS),
        *late("a request of another client was answered", slowest(since), worst),
        *unexpected(guesses, (400, 429) if control == GUARDED else (400, 429, 503)),
        *unexpected([*requests, *others], (200, 429)),
    ]
    figure = (
        f"{checked} of {len(guesses)} wrong passwords were checked (the quota is {FAILURES}); "
        f"{accepted} of {len(requests)} requests of one client were accepted (the quota is "
        f"{NETWORK_QUOTA}); other clients: p99 {percentile(since, 0.99) * 1000:.0f} ms, slowest "
        f"{slowest(since) * 1000:.0f} ms ({slowest(before) * 1000:.0f} ms before); Valkey counted "
        f"again after {recovered:.1f} s"
    )
    judge(f"The Valkey of the rate limits {fault}", control, figure, broken)
