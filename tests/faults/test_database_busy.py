"""SQL statements are slow; and there are more requests than database connections."""

import asyncio

import pytest

from app.infra.database.settings import DatabaseSettings
from tests.faults.conftest import Judge, Serve
from tests.faults.load import Answer, constantly, late, slowest, timed, unexpected
from tests.faults.service import WORKERS, Service
from tests.faults.verdicts import GUARDED

pytestmark = pytest.mark.faults
PROBE_SECONDS = 0.1
SETTINGS = DatabaseSettings()


async def warm(service: Service, clients: int) -> None:
    """Open all connections first, so that connecting is not measured."""
    await service.each_worker("/faults/pool")
    await asyncio.gather(*(timed(service.client, "GET", "/livez") for _ in range(clients)))


@pytest.mark.parametrize("control", [GUARDED, "with SQLAlchemy's default pool and timeouts"])
async def test_statements_that_never_end(serve: Serve, judge: Judge, control: str) -> None:
    probes: list[Answer] = []
    limit = SETTINGS.pool_timeout_seconds + SETTINGS.statement_timeout_seconds + 0.5
    async with serve(control) as service:
        client = service.client
        await warm(service, 50)
        async with constantly(20, lambda _: timed(client, "GET", "/livez"), probes):
            await asyncio.sleep(1)
            slow = [timed(client, "GET", "/faults/hold/30", timeout=limit + 2) for _ in range(50)]
            answers = await asyncio.gather(*slow)
    broken = [
        *unexpected(answers, (503,)),
        *late("a 503 response came", slowest(answers), limit),
        *unexpected(probes, (200,)),
        *late("`/livez` answered", slowest(probes), PROBE_SECONDS),
    ]
    figure = (
        f"{len(answers)} requests got status 503, the slowest after {slowest(answers):.2f} s; "
        f"`/livez` answered {len(probes)} ×, the slowest in {slowest(probes) * 1000:.0f} ms"
    )
    judge("SQL statements do not end", control, figure, broken)


@pytest.mark.parametrize("control", [GUARDED, "with SQLAlchemy's default pool and timeouts"])
async def test_three_times_as_many_requests_as_connections(
    serve: Serve, judge: Judge, control: str
) -> None:
    probes: list[Answer] = []
    async with serve(control) as service:
        client, number = service.client, 3 * SETTINGS.pool_size * WORKERS
        await warm(service, number)

        def probe(number: int) -> object:
            return timed(client, "GET", ("/livez", "/readyz")[number % 2])

        async with constantly(20, probe, probes):
            await asyncio.sleep(1)
            answers = await asyncio.gather(
                *(timed(client, "GET", "/faults/hold/4", timeout=10) for _ in range(number))
            )
    refused = [answer for answer in answers if answer.status == 503]
    broken = [
        *unexpected(answers, (200, 503)),
        *late("a 503 response came", slowest(refused), SETTINGS.pool_timeout_seconds + 0.1),
        *late("a response came", slowest(answers), 4 + SETTINGS.pool_timeout_seconds + 0.1),
        *unexpected(probes, (200,)),
        *late("a probe was answered", slowest(probes), PROBE_SECONDS),
    ]
    figure = (
        f"{len(answers) - len(refused)} requests served, {len(refused)} got status 503 within "
        f"{slowest(refused):.2f} s; probes answered within {slowest(probes) * 1000:.0f} ms"
    )
    judge("Three times as many requests as database connections", control, figure, broken)
