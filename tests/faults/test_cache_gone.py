"""Valkey is killed, stops answering or is full; and the database is killed behind a warm cache."""

import asyncio
from contextlib import suppress
from functools import partial

import pytest
import redis

from tests.faults.author import Author, sign_up
from tests.faults.conftest import Judge, Serve
from tests.faults.load import Answer, constantly, late, percentile, slowest, timed, unexpected
from tests.faults.postgres import Backend
from tests.faults.valkey import Valkey
from tests.faults.verdicts import GUARDED
from tests.faults.wire import Wire
from tests.features.users.factory import PASSWORD

pytestmark = pytest.mark.faults
RATE = 80
CONTROLS = [GUARDED, "with an ordinary cache"]
BASELINE, FAULT, AFTER, RECOVERY = 5, 10, 8, 3
SUCCESS, SLOWER, LOOK_UP_SECONDS = 0.999, 3, 0.25
REAL_PASSWORDS: dict[str, int] = {}


async def mixed(author: Author, reads: list[Answer], number: int) -> Answer:
    """Send the next of 100 requests: 81 posts, 10 lists, 7 posts written, 2 logins."""
    place = number * 37 % 100
    if place < 2:
        form = {"username": author.email, "password": PASSWORD}
        return await timed(author.client, "POST", "/v1/auth/token", data=form)
    if place < 9:
        return await author.write()
    path = "/v1/posts" if place < 19 else author.post
    reads.append(await timed(author.client, "GET", path))
    return reads[-1]


def judged_reads(reads: list[Answer], broken_at: float) -> tuple[str, list[str]]:
    """Judge what an unanswered look-up adds to reads. In the mix, slow logins would hide it."""
    before = [a for a in reads if a.sent_at < broken_at - 1]
    since = [a for a in reads if a.sent_at >= broken_at]
    limit = slowest(before) + LOOK_UP_SECONDS
    slow = [f"{seconds * 1000:.0f} ms" for seconds in map(slowest, (before, since))]
    p99 = [f"{percentile(part, 0.99) * 1000:.0f} ms" for part in (before, since)]
    figure = (
        f"reads: p99 {p99[0]} before, {p99[1]} since; slowest {slow[0]} before, {slow[1]} since"
    )
    return figure, late("a read was answered", slowest(since), limit)


def judged(answers: list[Answer], broken_at: float, whole_at: float) -> tuple[str, list[str]]:
    """Compare the responses during the fault, and some time after it, with those before it."""
    before = [a for a in answers if a.sent_at < broken_at - 1]
    during = [a for a in answers if broken_at <= a.sent_at < whole_at]
    after = [a for a in answers if a.sent_at >= whole_at + RECOVERY]
    base, worst, last = (percentile(part, 0.99) for part in (before, during, after))
    since = [a for a in answers if a.sent_at >= broken_at]
    share = sum(200 <= a.status < 300 for a in since) / len(since)
    broken = [
        *unexpected(answers, (200, 201, 503)),
        *[f"only {share:.2%} succeeded"] * (share < SUCCESS),
        *late("during the fault, the p99 response came", worst, SLOWER * base),
        *late("after the fault, the p99 response came", last, SLOWER * base),
    ]
    p99 = [f"{seconds * 1000:.0f} ms" for seconds in (base, worst, last)]
    figure = (
        f"{len(since)} requests, {share:.2%} succeeded; p99 {p99[0]} before, {p99[1]} during the "
        f"fault, {p99[2]} after it"
    )
    return figure, broken


@pytest.mark.parametrize("control", CONTROLS)
@pytest.mark.parametrize(
    "case", ["Valkey is killed and starts again after 10 s", "Valkey stops answering for 10 s"]
)
async def test_valkey_is_away_for_ten_seconds(
    valkey: Valkey, backend: Backend, serve_cached: Serve, judge: Judge, case: str, control: str
) -> None:
    loop, answers, reads = asyncio.get_running_loop(), list[Answer](), list[Answer]()
    async with serve_cached(control, auth=REAL_PASSWORDS) as service:
        author = await sign_up(service.client)
        async with constantly(RATE, partial(mixed, author, reads), answers):
            await asyncio.sleep(BASELINE)
            broken_at = loop.time()
            (valkey.kill if "kill" in case else valkey.freeze)()
            await asyncio.sleep(FAULT)
            (valkey.start_again if "kill" in case else valkey.thaw)()
            await valkey.returned()
            whole_at = loop.time()
            await asyncio.sleep(AFTER)
        broken = [*await author.broken_promises(backend), *await backend.idle_in_transaction()]
    figure, found = judged(answers, broken_at, whole_at)
    figure_of_reads, slow = judged_reads(reads, broken_at)
    judge(case, control, f"{figure}; {figure_of_reads}", found + slow + broken)


@pytest.mark.parametrize("control", CONTROLS)
async def test_valkey_is_full(
    valkey: Valkey, serve_cached: Serve, judge: Judge, control: str
) -> None:
    answers: list[Answer] = []
    async with serve_cached(control) as service:
        author = await sign_up(service.client)
        await valkey.ask("CONFIG", "SET", "maxmemory", "2mb")
        await valkey.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")
        with suppress(redis.ResponseError):
            for number in range(100_000):
                await valkey.ask("SET", f"junk {number}", "x" * 10_000)
        with suppress(redis.ResponseError):
            for number in range(100_000):  # fills the last gaps
                await valkey.ask("SET", f"little {number}", "x")
        async with constantly(RATE, author.send, answers):
            await asyncio.sleep(8)
        wire = Wire(service.address)
        paths = [f"/v1/posts?limit={number}" for number in range(1, 101)]
        sources = [(await wire.get(path, skip_memory=True)).source for path in paths]
    past = sources.count("BYPASS")
    figure = (
        f"{len(answers)} requests, all served, the slowest in {slowest(answers):.2f} s; {past} of "
        "100 new pages bypassed the cache"
    )
    kept = ["no page bypassed the cache"] * (not past)
    judge("Valkey has no free memory", control, figure, unexpected(answers, (200, 201)) + kept)


@pytest.mark.parametrize("control", [GUARDED, "without the cache"])
async def test_cached_reads_go_on_without_the_database(
    backend: Backend, serve_cached: Serve, judge: Judge, control: str
) -> None:
    answers: list[Answer] = []
    async with serve_cached(control) as service:
        author = await sign_up(service.client)
        paths = [author.post, "/v1/posts", f"{author.post}/comments"]
        for path in paths * 10:
            await timed(service.client, "GET", path)
        backend.kill()
        try:
            async with constantly(
                50, lambda n: timed(service.client, "GET", paths[n % len(paths)]), answers
            ):
                await asyncio.sleep(5)
            write = await timed(
                service.client,
                "POST",
                "/v1/posts",
                json={"title": "T", "body": "B"},
                headers=author.headers,
            )
        finally:
            backend.start_again()
            await backend.returned()
    figure = (
        f"{len(answers)} reads served, the slowest in {slowest(answers) * 1000:.0f} ms; a write "
        f"got status {write.status}"
    )
    broken = unexpected(answers, (200,)) + unexpected([write], (503,))
    judge("PostgreSQL is killed while clients read cached pages", control, figure, broken)
