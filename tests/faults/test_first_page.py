"""The first page is served from the cache while posts and comments are written."""

import asyncio
import random
from collections import Counter

import pytest

from tests.faults.author import sign_up
from tests.faults.conftest import Judge, Serve
from tests.faults.history import end
from tests.faults.verdicts import GUARDED
from tests.faults.wire import Reply, Wire

pytestmark = pytest.mark.faults
RATE, SHARE, SECONDS = 500, 0.95, 20


@pytest.mark.parametrize("control", [GUARDED, "without the cache"])
async def test_the_first_page_with_a_post_and_a_comment_a_second(
    serve_cached: Serve, judge: Judge, control: str
) -> None:
    replies: list[Reply] = []
    async with serve_cached(control) as service:
        author = await sign_up(service.client)

        async def read() -> None:
            loop, wire = asyncio.get_running_loop(), Wire(service.address)
            next_at = loop.time() + random.random() * 20 / RATE
            while True:
                await asyncio.sleep(next_at - loop.time())
                next_at += 20 / RATE
                replies.append(await wire.get("/v1/posts"))

        tasks = [asyncio.create_task(read()) for _ in range(20)]
        for _ in range(SECONDS):
            await author.write()
            await asyncio.sleep(0.5)
            path = f"{author.post}/comments"
            await service.client.post(path, json={"body": "C"}, headers=author.headers)
            await asyncio.sleep(0.5)
        await end(tasks)
    sources = Counter(reply.source for reply in replies)
    shares = {source: number / len(replies) for source, number in sources.most_common()}
    hits = sum(share for source, share in shares.items() if source.startswith("HIT"))
    named = ", ".join(f"{share:.1%} {source}" for source, share in shares.items())
    broken = [f"{hits:.1%} of the reads from the cache"] * (hits < SHARE)
    judge(
        "The first page is read while posts and comments are written",
        control,
        f"{len(replies)} reads, by `X-Cache`: {named}",
        broken,
    )
