"""Passwords: what the time of a login reveals, and what many logins at once cost."""

import asyncio
import json
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import chain

import pytest

from dev.address import Address
from tests.faults.author import sign_up
from tests.faults.conftest import Judge, Serve
from tests.faults.load import Answer, constantly, late, slowest, timed, unexpected
from tests.faults.service import resident_mib
from tests.faults.test_bodies import request_bytes, send
from tests.faults.test_limits import Load, not_served, share
from tests.faults.verdicts import GUARDED
from tests.faults.wire import Reply
from tests.features.users.factory import PASSWORD

pytestmark = pytest.mark.faults
# By chance alone, 400 logins are outside of 0.45–0.55 in 8 of 100 runs, and 1,200 in 3 of 1,000.
PAIRS = 600
FLOOD, GOOD_RATE, CONNECTIONS = 200, 50, 40
REFUSED_WITHIN_SECONDS, ANSWERED_WITHIN_SECONDS, NO_TROUBLE_SECONDS = 1.0, 3.0, 0.05
WATCHED_SECONDS = 10
# Two threads with 64 MiB each, and the memory of the requests.
LIMIT_MIB = 2 * 64 + 48


def auc(left: Sequence[float], right: Sequence[float]) -> float:
    """Return the probability that one of `left` is below one of `right`. 0.5 means no difference.

    The area under the ROC curve, computed from ranks (Mann and Whitney, 1947).
    """
    ranked = sorted(chain(((time, 0) for time in left), ((time, 1) for time in right)))
    ranks = sum(rank for rank, (_, side) in enumerate(ranked, 1) if side)
    return (ranks - len(right) * (len(right) + 1) / 2) / (len(left) * len(right))


@pytest.mark.parametrize("control", [GUARDED, "without a hash for unknown accounts"])
async def test_the_time_of_a_login_does_not_tell_whether_the_account_exists(
    serve: Serve, judge: Judge, control: str
) -> None:
    async with serve(control) as service:
        author = await sign_up(service.client)
        times: dict[str, list[float]] = {author.email: [], "nobody@example.com": []}
        answers: list[Answer] = []
        for _ in range(PAIRS):
            for email, taken in times.items():
                form = {"username": email, "password": "a wrong password"}
                answers.append(await timed(service.client, "POST", "/v1/auth/token", data=form))
                taken.append(answers[-1].seconds)
    area = auc(*times.values())
    told = [f"AUC {area:.3f}: the time shows which accounts exist"] * (not 0.45 <= area <= 0.55)
    figure = f"AUC {area:.3f} of {2 * PAIRS} alternating logins (0.5: the times do not differ)"
    judge(
        "Login times are compared for known and unknown accounts",
        control,
        figure,
        [*told, *unexpected(answers, (400,))],
    )


def at_once(address: Address, requests: Sequence[bytes]) -> list[Reply]:
    """Send all requests at once, each on a new connection."""

    async def flood() -> list[Reply]:
        return await asyncio.gather(*(send(address, request) for request in requests))

    return asyncio.run(flood())


@pytest.mark.parametrize("control", [GUARDED, "without the limit on waiting passwords"])
async def test_requests_beyond_the_password_queue_get_503_soon(
    serve: Serve, judge: Judge, control: str
) -> None:
    async with serve(control, auth={}) as service:  # passwords as expensive as in production
        author = await sign_up(service.client)
        workers = [worker["process_id"] for worker in await service.each_worker("/faults/vitals")]
        before = [resident_mib(worker, "VmRSS") for worker in workers]
        login = f"username={author.email}&password=a+wrong+password".encode()
        requests = [
            request_bytes("POST /v1/auth/token", "application/x-www-form-urlencoded", login, {})
        ] * FLOOD
        for number in range(FLOOD):
            account = {"email": f"n{number}@example.com", "name": "N", "password": PASSWORD}
            content = json.dumps(account).encode()
            requests.append(request_bytes("POST /v1/users", "application/json", content, {}))
        load = Load(service.address, author.post, {})
        await load.connect(CONNECTIONS)
        # In another process, so that sending the flood does not delay the other requests.
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as other_process:
            ask = partial(asyncio.get_running_loop().run_in_executor, other_process)
            await ask(partial(at_once, service.address, []))
            calm = await load.run(GOOD_RATE, WATCHED_SECONDS)
            flood = ask(partial(at_once, service.address, requests))
            meanwhile = await load.run(GOOD_RATE, WATCHED_SECONDS)
            replies = await flood
        load.close()
        grown = max(
            resident_mib(worker, "VmHWM") - rss for worker, rss in zip(workers, before, strict=True)
        )
    refused = [reply for reply in replies if reply.status == 503]
    last = max((reply.seconds for reply in refused), default=0.0)
    slowest = max(reply.seconds for reply in replies)
    p99_before, p99 = share(calm, 0.99), share(meanwhile, 0.99)
    wrong = sorted({reply.status for reply in replies} - {201, 400, 503})
    broken = [
        *late("the last 503 response came", last, REFUSED_WITHIN_SECONDS),
        # Other limits refuse requests as well, so there may be no late 503.
        *late("the last response came", slowest, ANSWERED_WITHIN_SECONDS),
        *[f"the memory of a worker grew by {grown:.0f} MiB"] * (grown > LIMIT_MIB),
        *[f"p99 of other requests {p99 * 1000:.0f} ms, {p99_before * 1000:.0f} ms before"]
        * (p99 > max(2 * p99_before, NO_TROUBLE_SECONDS)),
        *[f"unexpected statuses {wrong}"] * bool(wrong),
        *not_served(meanwhile),
    ]
    figure = (
        f"{len(replies) - len(refused)} passwords checked, {len(refused)} requests got status 503 "
        f"within {last:.2f} s, the last response came after {slowest:.1f} s; the memory of a "
        f"worker grew by at most {grown:.0f} MiB; p99 of other requests "
        f"{p99_before * 1000:.0f} ms before, {p99 * 1000:.0f} ms meanwhile"
    )
    judge("200 logins and 200 registrations at once", control, figure, broken)


@pytest.mark.parametrize("control", [GUARDED, "without the limit on password threads"])
async def test_many_logins_at_once_take_bounded_memory(
    serve: Serve, judge: Judge, control: str
) -> None:
    probes: list[Answer] = []
    async with serve(control, auth={}) as service:  # passwords as expensive as in production
        author = await sign_up(service.client)
        form = {"username": author.email, "password": PASSWORD}
        workers = [worker["process_id"] for worker in await service.each_worker("/faults/vitals")]
        before = [resident_mib(worker, "VmRSS") for worker in workers]
        async with constantly(20, lambda _: timed(service.client, "GET", "/livez"), probes):
            logins = (
                timed(service.client, "POST", "/v1/auth/token", data=form, timeout=60)
                for _ in range(200)
            )
            answers = await asyncio.gather(*logins)
        grown = max(
            resident_mib(worker, "VmHWM") - rss for worker, rss in zip(workers, before, strict=True)
        )
    served = sum(answer.status == 200 for answer in answers)
    broken = [
        *[f"the memory of a worker grew by {grown:.0f} MiB"] * (grown > LIMIT_MIB),
        *unexpected(answers, (200, 503)),
        *unexpected(probes, (200,)),
    ]
    figure = (
        f"{served} logins succeeded, {len(answers) - served} got status 503; the memory of a "
        f"worker grew by at most {grown:.0f} MiB; `/livez` answered within "
        f"{slowest(probes) * 1000:.0f} ms"
    )
    judge("200 logins at once", control, figure, broken)
