"""A PostgreSQL standby is killed or stops answering: the primary answers its reads."""

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.infra.database.settings import DatabaseSettings
from tests.faults.conftest import Judge, Serve
from tests.faults.load import Answer, constantly, late, slowest, timed, unexpected
from tests.faults.postgres import Backend
from tests.faults.verdicts import GUARDED
from tests.standby import Standby, open_standby

pytestmark = pytest.mark.faults
RATE = 50
LONGEST_SECONDS = DatabaseSettings().command_timeout_seconds + 1

FAULTS: dict[str, Callable[[Standby], Any]] = {
    "A PostgreSQL standby is killed": lambda standby: standby.kill(),
    "A PostgreSQL standby stops answering": lambda standby: standby.signal(signal.SIGSTOP),
}


@pytest.mark.parametrize("control", [GUARDED, "without the fallback to the primary"])
@pytest.mark.parametrize("case", FAULTS)
async def test_no_read_fails_that_the_primary_can_answer(
    backend: Backend, serve: Serve, judge: Judge, tmp_path: Path, case: str, control: str
) -> None:
    answers: list[Answer] = []
    with open_standby(backend.database_url, tmp_path) as standby:
        database = {"replica_url": standby.url(backend.database_url)}
        async with serve(control, database=database) as service:
            while not (await service.client.get("/faults/lagging")).json():
                await asyncio.sleep(0.1)

            async def send(_number: int) -> Answer:
                return await timed(service.client, "GET", "/faults/lagging")

            async with constantly(RATE, send, answers):
                await asyncio.sleep(2)
                FAULTS[case](standby)
                await asyncio.sleep(8)
    broken = [
        *unexpected(answers, (200,)),
        *late("a response came", slowest(answers), LONGEST_SECONDS),
    ]
    slow = sum(answer.seconds > 1 for answer in answers)
    figure = (
        f"{len(answers)} reads, all served; {slow} took longer than 1 s, the slowest "
        f"{slowest(answers):.2f} s"
    )
    judge(case, control, figure, broken)
