"""Many clients request one page at once; and a change becomes visible through another worker."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence

import pytest

from tests.faults.author import Author, sign_up
from tests.faults.conftest import Judge, Serve
from tests.faults.history import end
from tests.faults.service import WORKERS, Service
from tests.faults.valkey import Valkey
from tests.faults.verdicts import GUARDED
from tests.faults.wire import Wire

pytestmark = pytest.mark.faults
CROWD = 500
WRITES, WRITING_SECONDS, LANES = 10_000, 60.0, 4
SEEN_SECONDS = 0.05
LOADS_A_KEY = 1.2


async def loads(service: Service) -> Counter[str]:
    """Count the requests that reached the routes of all workers, by path."""
    workers = await service.each_worker("/faults/vitals")
    return sum((Counter(worker["loads"]) for worker in workers), Counter[str]())


@pytest.mark.parametrize("control", [GUARDED, "with an ordinary cache"])
@pytest.mark.parametrize("is_up", [True, False], ids=["up", "down"])
async def test_a_crowd_asks_for_one_cold_key(
    valkey: Valkey, serve_cached: Serve, judge: Judge, control: str, is_up: bool
) -> None:
    async with serve_cached(control, trouble="slow_loads") as service:
        author = await sign_up(service.client)
        wires = [Wire(service.address) for _ in range(CROWD)]
        await asyncio.gather(*(wire.get("/livez") for wire in wires))
        if not is_up:
            valkey.kill()
        replies = await asyncio.gather(*(wire.get(author.post) for wire in wires))
        loaded = (await loads(service))[author.post]
        for wire in wires:
            wire.close()
    statuses = Counter(reply.status for reply in replies)
    wrong = sum(statuses.values()) - statuses[200] - statuses[503]
    slowest = max(reply.seconds for reply in replies)
    figure = (
        f"the post was loaded {loaded} ×; {statuses[200]} responses with status 200 and "
        f"{statuses[503]} with 503, the slowest after {slowest:.2f} s"
    )
    broken = [f"the post was loaded {loaded} ×"] * (loaded > (1 if is_up else 2 * WORKERS))
    broken += [f"{wrong} requests failed"] * bool(wrong)
    state = "up" if is_up else "down"
    judge(
        f"{CROWD} clients request one uncached post at once, Valkey {state}",
        control,
        figure,
        broken,
    )


@pytest.mark.parametrize("control", [GUARDED, "with an ordinary cache"])
async def test_a_flush_under_load(
    valkey: Valkey, serve_cached: Serve, judge: Judge, control: str
) -> None:
    flushes = 4
    async with serve_cached(control, trouble="slow_loads") as service:
        authors = [await sign_up(service.client) for _ in range(10)]
        paths = [author.post for author in authors]

        async def read() -> None:
            wire = Wire(service.address)
            while True:
                await wire.get(random.choice(paths), skip_memory=True)
                await asyncio.sleep(0.03)

        tasks = [asyncio.create_task(read()) for _ in range(24)]
        await asyncio.sleep(2)
        before = await loads(service)
        for _ in range(flushes):
            await valkey.ask("FLUSHALL")
            await asyncio.sleep(2)
        found = await loads(service) - before
        await end(tasks)
    share = found.total() / (flushes * len(paths))
    broken = [f"{share:.2f} loads for each post and flush"] * (share > LOADS_A_KEY)
    judge(
        "Valkey is flushed under load",
        control,
        f"{flushes} flushes, {share:.2f} loads for each post and flush",
        broken,
    )


async def lanes(service: Service) -> list[dict[int, Wire]]:
    """Open connections until there are LANES pairs with one connection to each worker."""
    found: dict[int, list[Wire]] = {}
    while len(found) < WORKERS or min(map(len, found.values())) < LANES:
        wire = Wire(service.address)
        process_id = (await wire.get("/faults/vitals")).json()["process_id"]
        found.setdefault(process_id, []).append(wire)
    return [dict(zip(found, pair, strict=True)) for pair in zip(*found.values(), strict=False)]


async def delays(author: Author, pair: Sequence[Wire], until: float) -> list[float]:
    """Change a post at one worker, and measure how long the other one shows the old title."""
    there, here = pair
    seen: list[float] = []
    while time.monotonic() < until and len(seen) < WRITES / LANES:
        while (await here.get(author.post)).source != "HIT-L1":
            pass
        title = f"title {len(seen)}"
        written = await there.write("PATCH", author.post, author.headers, {"title": title})
        assert written.status == 200
        reply = await here.get(author.post)
        while reply.json()["title"] != title:
            reply = await here.get(author.post)
        seen.append(reply.sent_at - written.came_at)
    return sorted(seen)


@pytest.mark.parametrize("control", [GUARDED, "without invalidation messages"])
async def test_a_change_is_seen_through_another_workers_memory(
    serve_cached: Serve, judge: Judge, control: str
) -> None:
    async with serve_cached(control) as service:
        until = time.monotonic() + (WRITING_SECONDS if control == GUARDED else 10)
        pairs = [list(pair.values()) for pair in await lanes(service)][:LANES]
        work = [delays(await sign_up(service.client), pair, until) for pair in pairs]
        seen = sorted(delay for found in await asyncio.gather(*work) for delay in found)
    p50, p99, p999 = (seen[int(len(seen) * share)] * 1000 for share in (0.5, 0.99, 0.999))
    figure = (
        f"{len(seen)} changes, visible through the other worker's memory after {p50:.1f} ms (p50), "
        f"{p99:.1f} ms (p99), {p999:.1f} ms (p99.9)"
    )
    broken = [f"visible after {p999:.0f} ms (p99.9)"] * (p999 > SEEN_SECONDS * 1000)
    judge("A post is changed through one worker and read through another", control, figure, broken)
