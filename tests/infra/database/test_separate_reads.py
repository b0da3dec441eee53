"""Queries that run beside each other, each in a session of its own."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from app.infra.database import replica as replica_module
from app.infra.database import separate_reads as reads_module
from app.infra.database.replica import Replica
from app.infra.database.separate_reads import SeparateReads
from app.infra.resources import ProcessResources
from app.settings import Settings
from tests.application import running
from tests.standby import Standby, open_standby, until

PATIENT = 60.0  # seconds: the machine may be busy
WHERE = text("SELECT pg_is_in_recovery()")
END = text("SELECT pg_terminate_backend(pg_backend_pid())")


@pytest.fixture
def standby(settings: Settings, tmp_path: Path) -> Iterator[Standby]:
    url = settings.database.url.get_secret_value().replace("postgresql+asyncpg", "postgresql")
    with open_standby(url, tmp_path) as standby:
        yield standby


@pytest.fixture
async def replicated(
    settings: Settings, standby: Standby, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[ProcessResources]:
    """The resources of an application whose replica is up to date, however busy the machine is."""
    monkeypatch.setattr(replica_module, "CHECK_SECONDS", 0.1)
    monkeypatch.setattr(replica_module, "UNANSWERED_SECONDS", 60)
    url = settings.database.url.get_secret_value()
    database = {"url": url, "replica_url": standby.url(url), "replica_lag_seconds": 60}
    async with running(
        Settings.model_validate({**settings.model_dump(), "database": database})
    ) as app:
        await until(lambda: replica_of(app.state.resources).is_up_to_date)
        yield app.state.resources


def replica_of(resources: ProcessResources) -> Replica:
    assert resources.replica is not None
    return resources.replica


async def where(session: AsyncSession) -> bool:
    return bool(await session.scalar(WHERE))


async def fail_on_replica(session: AsyncSession) -> bool:
    if await where(session):
        await session.execute(END)
    return False


async def fail(session: AsyncSession) -> None:
    await session.execute(END)


async def test_query_that_may_lag_runs_on_the_replica(replicated: ProcessResources) -> None:
    reads = replicated.separate_reads
    assert await reads.read_lagging("where", where, PATIENT, caller=1)
    assert not await reads.read("where", where, PATIENT, caller=1)
    replica_of(replicated).distrust()
    assert not await reads.read_lagging("where", where, PATIENT, caller=1)


async def test_without_a_replica_everything_runs_on_the_primary(
    resources: ProcessResources,
) -> None:
    assert not await resources.separate_reads.read_lagging("where", where, PATIENT, caller=1)


async def test_query_that_fails_on_the_replica_runs_on_the_primary(
    replicated: ProcessResources,
) -> None:
    assert not await replicated.separate_reads.read_lagging("a", fail_on_replica, PATIENT, caller=1)


async def test_query_that_is_too_slow_on_the_replica_does_not_run_on_the_primary_as_well(
    replicated: ProcessResources,
) -> None:
    async def too_slow_on_replica(session: AsyncSession) -> bool:
        if await where(session):
            await session.execute(text("DO $$ BEGIN RAISE query_canceled; END $$"))
        return False

    with pytest.raises(DBAPIError):
        await replicated.separate_reads.read_lagging("a", too_slow_on_replica, PATIENT, caller=1)


async def test_query_that_would_fail_again_does_not_run_again(resources: ProcessResources) -> None:
    attempts = []

    async def divide(session: AsyncSession) -> None:
        attempts.append(session)
        await session.execute(text("SELECT 1 / 0"))

    with pytest.raises(DBAPIError):
        await resources.separate_reads.read("a", divide, PATIENT, caller=1)
    assert len(attempts) == 1


async def test_query_whose_connection_is_lost_runs_once_more(resources: ProcessResources) -> None:
    attempts = []

    async def fail_once(session: AsyncSession) -> int:
        attempts.append(session)
        if len(attempts) == 1:
            await session.execute(END)
        return 7

    assert await resources.separate_reads.read("a", fail_once, PATIENT, caller=1) == 7
    assert len(attempts) == 2
    with pytest.raises(DBAPIError):
        await resources.separate_reads.read("a", fail, PATIENT, caller=1)


async def test_queries_run_beside_each_other(resources: ProcessResources) -> None:
    """Each query waits for the other one, so that none ends if they run one after the other."""
    both = asyncio.Barrier(2)

    async def meet(session: AsyncSession) -> None:
        await session.execute(text("SELECT 1"))
        await both.wait()

    async with asyncio.timeout(60):
        await asyncio.gather(
            *(resources.separate_reads.read("a", meet, PATIENT, caller=1) for _ in range(2))
        )


@pytest.mark.parametrize(("pool_size", "most"), [(1, 1), (4, 2), (5, 2)])
async def test_queries_use_half_of_the_pool(
    resources: ProcessResources, pool_size: int, most: int
) -> None:
    reads = SeparateReads(resources.database, None, pool_size)
    running = peak = 0

    async def count(session: AsyncSession) -> None:
        nonlocal running, peak
        running += 1
        peak = max(peak, running)
        await session.execute(text("SELECT 1"))
        running -= 1

    await asyncio.gather(*(reads.read("a", count, PATIENT, caller=1) for _ in range(20)))
    assert peak == most


async def answer(_session: AsyncSession) -> int:
    return 7


class Held:
    """A query that holds its place until `ends` is set."""

    def __init__(self) -> None:
        self.has_begun, self.ends = asyncio.Event(), asyncio.Event()

    async def __call__(self, _session: AsyncSession) -> int:
        self.has_begun.set()
        await self.ends.wait()
        return 1


async def test_time_for_which_a_query_waits_for_its_turn_does_not_count(
    resources: ProcessResources,
) -> None:
    reads, held = SeparateReads(resources.database, None, 1), Held()
    first = asyncio.create_task(reads.read("a", held, PATIENT, caller=1))
    await held.has_begun.wait()
    second = asyncio.create_task(reads.read("a", answer, 0.05, caller=1))
    await asyncio.sleep(0.2)
    assert not second.done()
    held.ends.set()
    assert (await first, await second) == (1, 7)


async def test_query_that_waits_for_its_turn_too_long_fails(
    resources: ProcessResources, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reads_module, "WAITING_SECONDS", 0.05)
    reads, held = SeparateReads(resources.database, None, 1), Held()
    first = asyncio.create_task(reads.read("a", held, PATIENT, caller=1))
    await held.has_begun.wait()
    with pytest.raises(TimeoutError):
        await reads.read("b", answer, PATIENT, caller=1)
    held.ends.set()
    assert await first == 1
    assert await reads.read("b", answer, PATIENT, caller=1) == 7


async def test_waiting_queries_of_a_caller_fail_with_the_one_that_is_too_slow(
    resources: ProcessResources,
) -> None:
    """Otherwise each of them would keep the others from their turn for its whole time."""
    reads, held = SeparateReads(resources.database, None, 1), Held()
    async with asyncio.timeout(PATIENT / 2):
        found = await asyncio.gather(
            reads.read("slow", held, 0.2, caller=1),
            reads.read("slow", held, PATIENT, caller=1),
            reads.read("fast", answer, PATIENT, caller=1),
            return_exceptions=True,
        )
    assert [type(one) for one in found] == [TimeoutError, TimeoutError, int]
    assert await reads.read("slow", answer, PATIENT, caller=1) == 7


async def test_slow_query_of_one_caller_takes_nothing_from_the_others(
    resources: ProcessResources,
) -> None:
    """The caller may have more rows than everybody else."""
    reads, held = SeparateReads(resources.database, None, 1), Held()
    found = await asyncio.gather(
        reads.read("slow", held, 0.2, caller=1),
        reads.read("slow", answer, PATIENT, caller=2),
        reads.read("slow", answer, PATIENT, caller=3),
        return_exceptions=True,
    )
    assert [type(one) for one in found] == [TimeoutError, int, int]


async def test_query_that_is_too_slow_for_two_callers_fails_for_all_that_wait(
    resources: ProcessResources,
) -> None:
    """Otherwise each of them would keep the others from their turn for its whole time."""
    reads, held = SeparateReads(resources.database, None, 1), Held()
    async with asyncio.timeout(PATIENT / 2):
        found = await asyncio.gather(
            reads.read("slow", held, 0.2, caller=1),
            reads.read("slow", held, 2, caller=2),
            reads.read("slow", held, PATIENT, caller=3),
            reads.read("fast", answer, PATIENT, caller=3),
            return_exceptions=True,
        )
    assert [type(one) for one in found] == [*[TimeoutError] * 3, int]
    assert await reads.read("slow", answer, PATIENT, caller=4) == 7
