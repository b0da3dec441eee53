"""Another service, which a response needs for a part of it, stops answering."""

import asyncio

import pytest

from app.features.dashboard.settings import DashboardSettings
from tests.faults.conftest import Judge, Serve
from tests.faults.load import (
    Answer,
    constantly,
    late,
    percentile,
    register,
    slowest,
    timed,
    unexpected,
)
from tests.faults.verdicts import GUARDED
from tests.upstream_server import hangs, open_upstream, replies

pytestmark = pytest.mark.faults
RATE = 20
LIMIT_SECONDS = DashboardSettings().upstream_seconds
# After that, each worker has seen three calls fail.
OPEN_SECONDS = 3 * LIMIT_SECONDS
PROMPT_SECONDS = 0.3


@pytest.mark.parametrize("control", [GUARDED, "without the circuit breaker for other services"])
async def test_other_service_that_hangs_slows_few_responses_down(
    serve: Serve, judge: Judge, control: str
) -> None:
    answers: list[Answer] = []
    async with open_upstream() as upstream:
        upstream.answer = replies({"headline": "A text"})
        async with serve(control, dashboard={"upstream_url": upstream.url}) as service:
            _, headers = await register(service.client)

            async def send(_number: int) -> Answer:
                return await timed(service.client, "GET", "/v1/dashboard", headers=headers)

            async with constantly(RATE, send, answers):
                await asyncio.sleep(2)
                upstream.answer, stopped_at = hangs, asyncio.get_running_loop().time()
                await asyncio.sleep(OPEN_SECONDS + 7)
    later = [answer for answer in answers if answer.sent_at > stopped_at + OPEN_SECONDS]
    prompt = percentile(later, 0.8)
    broken = [
        *unexpected(answers, (200,)),
        *late("a response came", slowest(answers), LIMIT_SECONDS + 0.5),
        *late("four of five responses came", prompt, PROMPT_SECONDS),
    ]
    figure = (
        f"{len(answers)} dashboards, all with status 200, the slowest after "
        f"{slowest(answers):.2f} s; from {OPEN_SECONDS:.0f} s after the stop on, four of five came "
        f"within {prompt * 1000:.0f} ms"
    )
    judge("Another service stops answering", control, figure, broken)
