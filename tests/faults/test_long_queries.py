"""A client sends long queries through the deployed balancers, and other clients do not notice.

If the head of a response is larger than the balancer's buffer, the client gets a 502 or 503.
nginx then also stops using the instance that sent it, so the requests of all clients fail.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from dev.address import Address
from tests.faults.author import sign_up
from tests.faults.balancer import HAPROXY, NGINX, deployed_haproxy, deployed_nginx
from tests.faults.callers import raise_first
from tests.faults.conftest import Judge, Serve
from tests.faults.service import Service
from tests.faults.verdicts import GUARDED
from tests.faults.wire import Reply, Wire

pytestmark = pytest.mark.faults

Balancing = Callable[[Sequence[Address], Path], AbstractContextManager[Address]]

BALANCERS = [
    pytest.param(
        name,
        balancing,
        id=name,
        marks=pytest.mark.skipif(program is None, reason=f"{name} is not installed"),
    )
    for name, balancing, program in (
        ("nginx", deployed_nginx, NGINX),
        ("HAProxy", deployed_haproxy, HAPROXY),
    )
]
SECONDS = 6.0
ATTACKERS, INNOCENT = 4, 8
LEAST = 200
LENGTHS = (4_000, 7_000, 12_000, 15_000, 64_000)
QUERIES = [
    query
    for length in LENGTHS
    for query in (
        f"limit=1&utm={'x' * length}",
        f"limit=1&{'x' * length}=1",
        f"limit=1&{'&'.join(f'p{number}=1' for number in range(length // 6))}",
        f"limit={'0' * length}1",
        f"limit=1&cursor={'x' * length}",
    )
]


async def ask(front: Address, paths: list[str], replies: list[Reply]) -> None:
    """Request these paths in turn, on one connection while it lasts."""
    wire = Wire(front)
    try:
        while True:
            for path in paths:
                replies.append(await wire.get(path))
                await asyncio.sleep(random.uniform(0, 0.04))
    finally:
        wire.close()


async def ask_together(front: Address, post: str) -> tuple[list[Reply], list[Reply]]:
    """Let attackers and other clients send requests, and return the replies to each group."""
    long, innocent = [f"/v1/posts?{query}" for query in QUERIES], [post, "/v1/posts?limit=5"]
    of_attackers: list[Reply] = []
    of_innocent: list[Reply] = []
    tasks = [asyncio.create_task(ask(front, long, of_attackers)) for _ in range(ATTACKERS)]
    tasks += [asyncio.create_task(ask(front, innocent, of_innocent)) for _ in range(INNOCENT)]
    await asyncio.sleep(SECONDS)
    for task in tasks:
        task.cancel()
    raise_first(await asyncio.gather(*tasks, return_exceptions=True))
    return of_attackers, of_innocent


async def until_balanced(front: Address) -> None:
    """Wait until the balancer has found an instance that is ready."""
    wire = Wire(front)
    async with asyncio.timeout(20):
        while (await wire.get("/readyz")).status != 200:
            await asyncio.sleep(0.1)
    wire.close()


async def write_posts(service: Service) -> str:
    """Write two posts, so that a list of one has a next page. Return the path of the last one."""
    await sign_up(service.client)
    return (await sign_up(service.client)).post


@pytest.mark.parametrize("control", [GUARDED, "with the whole query in Link headers"])
@pytest.mark.parametrize(("name", "balancing"), BALANCERS)
async def test_long_queries_break_nobody(
    serve: Serve, judge: Judge, tmp_path: Path, name: str, balancing: Balancing, control: str
) -> None:
    async with serve(control) as first, serve(control) as second:
        post = await write_posts(first)
        with balancing([first.address, second.address], tmp_path) as front:
            await until_balanced(front)
            long, innocent = await ask_together(front, post)
    errors = sum(reply.status >= 500 for reply in long)
    lost = sum(reply.status != 200 for reply in innocent)
    broken = [f"{lost} of {len(innocent)} requests of other clients failed"] * bool(lost)
    broken += [f"{errors} of {len(long)} long queries got status 5xx"] * bool(errors)
    if min(len(long), len(innocent)) < LEAST:
        broken.append(f"only {len(long)} long queries and {len(innocent)} other requests")
    figure = (
        f"{errors} of {len(long)} long queries got status 5xx, {lost} of {len(innocent)} requests "
        "of other clients failed"
    )
    judge(f"Clients send long query strings through {name}", control, figure, broken)
