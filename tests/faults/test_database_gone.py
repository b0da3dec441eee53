"""PostgreSQL is killed, or stops answering, under load."""

import asyncio

import pytest

from app.infra.database.settings import DatabaseSettings
from tests.faults.author import sign_up
from tests.faults.conftest import Judge, Serve
from tests.faults.load import Answer, constantly, late, slowest, unexpected
from tests.faults.postgres import Backend
from tests.faults.verdicts import GUARDED

pytestmark = pytest.mark.faults
RATE = 30  # per second. A low rate, so that the machine does not determine the times
RECOVERY_SECONDS = 3
LONGEST_SECONDS = DatabaseSettings().command_timeout_seconds + 2.5


def not_clean(answers: list[Answer], returned_at: float) -> list[str]:
    """Return how many requests failed that were sent long enough after the return."""
    since = returned_at + RECOVERY_SECONDS
    failed = [a.sent_at - returned_at for a in answers if a.sent_at > since and a.status >= 300]
    return (
        [f"{len(failed)} requests failed up to {max(failed):.1f} s after the return"]
        if failed
        else []
    )


def seen(answers: list[Answer], returned_at: float) -> str:
    failed = [answer for answer in answers if answer.status >= 300 or not answer.status]
    last = max([answer.sent_at - returned_at for answer in failed], default=0.0)
    return (
        f"{len(answers)} requests, {len(failed)} of them got an error, the slowest after "
        f"{slowest(failed):.2f} s; the last of these was sent {max(last, 0):.1f} s after "
        "PostgreSQL returned"
    )


@pytest.mark.parametrize("control", [GUARDED, "with SQLAlchemy's default pool and timeouts"])
async def test_the_postmaster_is_killed(
    backend: Backend, serve: Serve, judge: Judge, control: str
) -> None:
    loop, answers = asyncio.get_running_loop(), list[Answer]()
    async with serve(control) as service:
        author = await sign_up(service.client)
        async with constantly(RATE, author.send, answers):
            await asyncio.sleep(3)
            backend.kill()
            await asyncio.sleep(5)
            backend.start_again()
            await backend.returned()
            returned_at = loop.time()
            await asyncio.sleep(RECOVERY_SECONDS + 3)
        refused = [answer for answer in answers if answer.status == 503]
        broken = [
            *unexpected(answers, (200, 201, 503)),
            *late("a 503 response came", slowest(refused), 2),
            *not_clean(answers, returned_at),
            *await author.broken_promises(backend),
            *await backend.idle_in_transaction(),
        ]
    kept = len(author.acknowledged)
    figure = f"{seen(answers, returned_at)}; {kept} acknowledged writes, each stored once"
    judge("PostgreSQL is killed and starts again after 5 s", control, figure, broken)


@pytest.mark.parametrize("control", [GUARDED, "with SQLAlchemy's default pool and timeouts"])
async def test_every_process_is_frozen(
    backend: Backend, serve: Serve, judge: Judge, control: str
) -> None:
    loop, answers = asyncio.get_running_loop(), list[Answer]()
    async with serve(control) as service:
        author = await sign_up(service.client)
        async with constantly(RATE, author.send, answers):
            await asyncio.sleep(3)
            backend.freeze()
            await asyncio.sleep(10)
            backend.thaw()
            returned_at = loop.time()
            whole_after = await service.until_whole(10)
            await asyncio.sleep(RECOVERY_SECONDS + 2)
        broken = [
            *unexpected(answers, (200, 201, 503)),
            *late("a response came", slowest(answers), LONGEST_SECONDS),
            *late("every connection of the pool worked", whole_after, RECOVERY_SECONDS),
            *not_clean(answers, returned_at),
            *await author.broken_promises(backend),
            *await backend.idle_in_transaction(),
        ]
    figure = (
        f"{seen(answers, returned_at)}; every connection of the pool worked again after "
        f"{whole_after:.1f} s"
    )
    judge("PostgreSQL stops answering for 10 s", control, figure, broken)
