"""The cache on a Valkey cluster: the owner of its slot fails, and a replica takes over."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from app.infra.cache.wiring import cache_config
from app.settings import Settings
from coherent_cache import flush_cache
from tests.faults.author import sign_up
from tests.faults.cluster import NODE_TIMEOUT_MILLISECONDS, Cluster, open_cluster
from tests.faults.conftest import Judge
from tests.faults.history import repeated, run_history
from tests.faults.postgres import Backend
from tests.faults.service import serving
from tests.faults.test_histories import seconds_of
from tests.faults.verdicts import GUARDED
from tests.faults.wire import Wire
from tests.tables import SERVICE_TABLES, truncate

pytestmark = pytest.mark.faults
CLUSTER = {"cluster": True}
# More than the buffers between two nodes hold. The rest is lost with the owner.
JUNK_MEGABYTES = 48
# Time until the cluster has a new owner, and the breaker has closed.
RECOVERY_SECONDS = NODE_TIMEOUT_MILLISECONDS / 1000 + 4

# While there is no owner, a relay must repeat each invalidation, and a half-open channel shows no
# error. Reads from memory may be stale for this long, and any share of them.
FAILOVER_SECONDS, ANY_SHARE = 1.5, 1.0

Disturbance = Callable[[Cluster], AbstractAsyncContextManager[None]]


def undisturbed(_cluster: Cluster) -> AbstractAsyncContextManager[None]:
    """Cause no fault."""
    return nullcontext()


def owner_killed(cluster: Cluster) -> AbstractAsyncContextManager[None]:
    """Kill the owner. When its replica has taken over, start it again, empty."""

    async def kill() -> None:
        owner = await cluster.owner()
        owner.kill()
        assert await cluster.owner() is not owner
        owner.start_again()
        await owner.returned()
        await cluster.until_replicated()

    return repeated(kill, 2)


def owner_frozen(cluster: Cluster) -> AbstractAsyncContextManager[None]:
    """Freeze the owner until its replica has taken over. Then let it continue with its old data."""

    async def freeze() -> None:
        owner = await cluster.owner()
        owner.freeze()
        while await cluster.owner() is owner:
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.5)
        owner.thaw()
        await cluster.until_replicated()

    return repeated(freeze, 2)


UNDISTURBED = "Valkey cluster: many reads and writes, nothing fails"
DISTURBANCES: dict[str, Disturbance] = {
    UNDISTURBED: undisturbed,
    "Valkey cluster: the primary is killed repeatedly": owner_killed,
    "Valkey cluster: the primary stops answering until it is replaced, repeatedly": owner_frozen,
}


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    async with open_cluster(tmp_path / "cluster") as cluster:
        yield cluster


@pytest.fixture
async def empty(backend: Backend, cluster: Cluster) -> Backend:
    """A backend without rows, with the cluster as its Valkey."""
    await backend.rows(truncate(SERVICE_TABLES))
    return replace(backend, valkey_url=cluster.url)


@pytest.mark.parametrize("control", [GUARDED, "with an ordinary cache"])
@pytest.mark.parametrize("case", DISTURBANCES)
async def test_no_read_shows_less_than_was_acknowledged(
    empty: Backend,
    cluster: Cluster,
    monkeypatch: pytest.MonkeyPatch,
    judge: Judge,
    case: str,
    control: str,
) -> None:
    slow = "slow_fills"
    async with serving(empty, monkeypatch, control, trouble=slow, valkey=CLUSTER) as service:
        fault = DISTURBANCES[case](cluster)
        history = await run_history(service, empty, seconds_of(control, 20), fault)
    sources = ", ".join(f"{n} × {source}" for source, n in sorted(history.seen.reads.items()))
    allowed = () if case == UNDISTURBED else (FAILOVER_SECONDS, ANY_SHARE)
    broken = history.broken(*allowed)
    judge(case, control, f"{history.figure}; `X-Cache`: {sources}", broken)


async def test_it_is_emptied_by_hand(empty: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    valkey = {"url": empty.valkey_url, **CLUSTER}
    async with serving(empty, monkeypatch, GUARDED, workers=1, valkey=CLUSTER) as service:
        author, wire = await sign_up(service.client), Wire(service.address)
        sources = [(await wire.get(author.post)).source for _ in range(5)]
        assert sources[-1] == "HIT-L1"
        settings = Settings.model_validate({"valkey": valkey, "server": {"drain_seconds": 0}})
        assert await flush_cache(cache_config(settings.valkey, settings.cache)) > 3
        await asyncio.sleep(0.5)  # until the message has arrived
        assert (await wire.get(author.post)).source == "MISS"


@pytest.mark.parametrize("control", [GUARDED, "without the check of a new primary"])
async def test_a_new_primary_that_misses_an_invalidation_is_not_trusted(
    empty: Backend,
    cluster: Cluster,
    monkeypatch: pytest.MonkeyPatch,
    judge: Judge,
    control: str,
) -> None:
    async with serving(empty, monkeypatch, control, valkey=CLUSTER) as service:
        author, wire = await sign_up(service.client), Wire(service.address)
        for _ in range(20):  # so that both workers read it
            await wire.get(author.post, skip_memory=True)
        replica, owner = await cluster.until_replicated(), await cluster.owner()
        replica.freeze()
        for number in range(JUNK_MEGABYTES):
            await owner.ask("SET", f"{{cache}}junk{number}", "x" * 1_000_000, "EX", "60")
        edited = await wire.write("PATCH", author.post, author.headers, {"title": "after"})
        assert edited.status == 200
        owner.kill()
        replica.thaw()
        killed_at, stale, sources = time.monotonic(), 0, set()
        while time.monotonic() - killed_at < RECOVERY_SECONDS or "HIT" not in sources:
            reply = await wire.get(author.post, skip_memory=True)
            stale += b"after" not in reply.body
            sources.add(reply.source)
            assert time.monotonic() - killed_at < 2 * RECOVERY_SECONDS, sources
            await asyncio.sleep(0.02)
        assert await cluster.owner() is replica
    broken = [f"{stale} reads stale"] * bool(stale)
    judge("Valkey cluster: a failover loses an invalidation", control, "0 reads stale", broken)
