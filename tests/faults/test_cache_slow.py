"""Valkey answers slowly; and tables of the database are locked."""

import asyncio
from functools import partial

import asyncpg
import pytest

from tests.faults.author import Author, sign_up
from tests.faults.conftest import Judge, Serve
from tests.faults.far_valkey import far_away
from tests.faults.load import Answer, constantly, late, percentile, slowest, timed, unexpected
from tests.faults.postgres import Backend
from tests.faults.valkey import Valkey
from tests.faults.verdicts import GUARDED

pytestmark = pytest.mark.faults
RATE = 80
DELAYS = (30, 60, 90, 200)
BEFORE, FAULT, AFTER = 4, 6, 4
NOTICED, RECOVERED, SLOWER = 2, 2, 3
LOCKED, ANSWERED, PROBED = 10, 2.5, 0.5
PROBES = ("/livez", "/readyz")
NO_STORE = {"Cache-Control": "no-store"}


async def mixed(author: Author, lists: list[Answer], number: int) -> Answer:
    """Send the next request of a mix: of 10, 6 read a post, 3 a list, 1 writes a post."""
    place = number % 10
    if place == 5:
        return await author.write()
    if place in (1, 4, 8):
        lists.append(await timed(author.client, "GET", "/v1/posts"))
        return lists[-1]
    return await timed(author.client, "GET", author.post)


async def uncached(author: Author, lists: list[Answer], number: int) -> Answer:
    """Send the same mix without the cache."""
    if number % 10 == 5:
        return await author.write()
    path = "/v1/posts" if number % 10 in (1, 4, 8) else author.post
    answer = await timed(author.client, "GET", path, headers=NO_STORE)
    if path == "/v1/posts":
        lists.append(answer)
    return answer


def p50(answers: list[Answer], since: float = 0.0, until: float = float("inf")) -> float:
    """Return the median, in seconds, of the requests that were sent in this interval."""
    return percentile([a for a in answers if since <= a.sent_at < until], 0.5)


@pytest.mark.parametrize("control", [GUARDED, "without the circuit breaker for slow look-ups"])
async def test_a_valkey_that_is_slow(
    valkey: Valkey, serve_cached: Serve, judge: Judge, control: str
) -> None:
    loop, answers = asyncio.get_running_loop(), list[Answer]()
    without, lists = list[Answer](), list[Answer]()
    times: list[tuple[int, float, float]] = []  # the delay, and from when to when it was active
    with far_away(valkey) as far:
        async with serve_cached(control, valkey={"url": far.url}) as service:
            author = await sign_up(service.client)
            async with constantly(RATE, partial(uncached, author, without), answers):
                await asyncio.sleep(BEFORE)
            async with constantly(RATE, partial(mixed, author, lists), answers):
                await asyncio.sleep(BEFORE)
                for milliseconds in DELAYS:
                    far.move(milliseconds / 1000)
                    slow_at = loop.time()
                    await asyncio.sleep(FAULT)
                    far.move(0)
                    times.append((milliseconds, slow_at, loop.time()))
                    await asyncio.sleep(AFTER)
    normal, past = p50(lists, until=times[0][1]), p50(without)
    broken, figures = unexpected(answers, (200, 201)), list[str]()
    for milliseconds, slow_at, quick_at in times:
        during = p50(lists, slow_at + NOTICED, quick_at)
        after = p50(lists, quick_at + RECOVERED, quick_at + AFTER)
        figures.append(f"{during * 1000:.1f} ms and {after * 1000:.1f} ms")
        broken += late(
            f"with {milliseconds} ms of delay, the median page came", during, SLOWER * past
        )
        broken += late(
            f"after {milliseconds} ms of delay, the median page came", after, SLOWER * normal
        )
    figure = (
        f"{len(answers)} requests served; median page {normal * 1000:.1f} ms, {past * 1000:.1f} ms "
        f"without the cache; during and after a delay of {', '.join(map(str, DELAYS))} ms: "
        f"{'; '.join(figures)}"
    )
    judge("Valkey becomes slow", control, figure, broken)


@pytest.mark.parametrize("control", [GUARDED, "without the deadline for cached reads"])
async def test_a_table_is_locked(
    backend: Backend, serve_cached: Serve, judge: Judge, control: str
) -> None:
    before, cached = list[Answer](), list[Answer]()
    reads, probes, others = list[Answer](), list[Answer](), list[Answer]()
    async with serve_cached(control) as service:
        client = service.client
        author = await sign_up(client)
        hot = [author.post, "/v1/posts"]
        for path in hot * 10:
            await timed(client, "GET", path)
        # The same other requests run beside them, so that the client is as busy as later.
        async with (
            constantly(4, lambda _: timed(client, "GET", "/v1/posts"), others),
            constantly(20, lambda n: timed(client, "GET", hot[n % 2]), before),
            constantly(10, lambda n: timed(client, "GET", PROBES[n % 2]), others),
        ):
            await asyncio.sleep(BEFORE)
        holder = await asyncpg.connect(backend.database_url)
        try:
            async with holder.transaction():
                await holder.execute("LOCK TABLE posts, users IN ACCESS EXCLUSIVE MODE")
                async with (
                    constantly(4, lambda _: timed(client, "GET", "/v1/posts?limit=7"), reads),
                    constantly(20, lambda n: timed(client, "GET", hot[n % 2]), cached),
                    constantly(10, lambda n: timed(client, "GET", PROBES[n % 2]), probes),
                ):
                    await asyncio.sleep(LOCKED)
        finally:
            await holder.close()
        healed = await timed(client, "GET", "/v1/posts?limit=7")
    broken = [
        *unexpected(reads, (503,)),
        *late("a response came", slowest(reads), ANSWERED),
        *unexpected([*cached, healed], (200,)),
        *late("the median cached read came", p50(cached), SLOWER * p50(before)),
        *unexpected(probes, (200,)),
        *late("a probe was answered", slowest(probes), PROBED),
    ]
    figure = (
        f"{len(reads)} uncached reads got status 503, the slowest after {slowest(reads):.2f} s; "
        f"{len(cached)} cached reads served, p50 {p50(before) * 1000:.1f} ms before, "
        f"{p50(cached) * 1000:.1f} ms meanwhile; {len(probes)} probes answered, the slowest in "
        f"{slowest(probes) * 1000:.0f} ms"
    )
    judge("PostgreSQL tables are locked for 10 s", control, figure, broken)
