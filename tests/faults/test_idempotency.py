"""A request with an Idempotency-Key is sent many times, also after its process was killed."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx2
import pytest

from tests.faults.conftest import Judge, Serve
from tests.faults.load import Answer, register, timed, unexpected
from tests.faults.postgres import Backend
from tests.faults.service import Service
from tests.faults.verdicts import GUARDED
from tests.features.idempotency.slow_route import TABLE

pytestmark = pytest.mark.faults
AT_ONCE, SLOW_SECONDS = 50, 3
INNOCENT, APART_SECONDS = 20, 0.1
KILLS, KILLS_OF_CONTROL = 20, 3
PATIENCE_SECONDS = 60

Headers = dict[str, str]


@asynccontextmanager
async def caller_of(service: Service, backend: Backend) -> AsyncIterator[Headers]:
    """Make an account and an empty table for the effects."""
    await backend.rows(TABLE)
    await backend.rows("TRUNCATE once_effects")
    _, headers = await register(service.client)
    yield headers


async def effects(backend: Backend) -> list[int]:
    return [row["number"] for row in await backend.rows("SELECT number FROM once_effects")]


async def innocent(service: Service, headers: Headers) -> list[Answer]:
    """Send requests without a key that need the database."""
    answers = []
    for _ in range(INNOCENT):
        answers.append(await timed(service.client, "GET", "/v1/users/me", headers=headers))
        await asyncio.sleep(APART_SECONDS)
    return answers


@pytest.mark.parametrize("control", [GUARDED, "without the lock on the key"])
async def test_one_key_at_once(serve: Serve, backend: Backend, judge: Judge, control: str) -> None:
    """While the first request runs, the others do not wait for it with a database connection."""
    async with serve(control) as service, caller_of(service, backend) as headers:
        keyed = {**headers, "Idempotency-Key": "one"}
        path = f"/faults/once/1?seconds={SLOW_SECONDS}"
        sent = [
            asyncio.create_task(timed(service.client, "POST", path, headers=keyed))
            for _ in range(AT_ONCE)
        ]
        beside = await innocent(service, headers)
        answers = await asyncio.gather(*sent)
        again = await service.client.post(path, headers=keyed)
        found = await effects(backend)
    ran = sum(answer.status == 201 for answer in answers)
    in_use = sum(answer.status == 409 for answer in answers)
    broken = unexpected(beside, (200,)) + unexpected(answers, (201, 409))
    broken += [f"{len(found)} rows"] * (len(found) != 1)
    broken += [f"{ran} requests ran"] * (ran != 1)
    broken += ["the answer was not sent again"] * ("idempotent-replayed" not in again.headers)
    figure = (
        f"{AT_ONCE} requests: {ran} ran, {in_use} got 409, {len(found)} row; "
        f"{len(beside)} others answered within {max(one.seconds for one in beside):.1f} s"
    )
    judge("Many requests have one Idempotency-Key", control, figure, broken)


@pytest.mark.parametrize("control", [GUARDED, "with answers stored after the commit"])
async def test_death_between_commit_and_response(
    serve: Serve, backend: Backend, judge: Judge, control: str
) -> None:
    """The client gets no response, and sends the request again with its key."""
    kills = KILLS if control == GUARDED else KILLS_OF_CONTROL
    cut_off = replayed = 0
    async with serve(control) as service, caller_of(service, backend) as headers:
        for number in range(kills):
            keyed = {**headers, "Idempotency-Key": f"key-{number}"}
            path = f"/faults/once/{number}"
            first = await timed(
                service.client, "POST", path, headers={**keyed, "X-Faults-Die": "true"}
            )
            cut_off += first.status == 0
            answer = await until_answered(service, path, keyed)
            replayed += "idempotent-replayed" in answer.headers
        found = await effects(backend)
    twice = len(found) - len(set(found))
    broken = [f"{twice} requests ran twice"] * bool(twice)
    broken += [f"{kills - len(set(found))} requests were lost"] * (len(set(found)) != kills)
    broken += [f"{kills - replayed} answers were lost"] * (replayed != kills)
    figure = f"{cut_off} of {kills} responses cut off: {replayed} sent again, {twice} ran twice"
    judge("A process dies between a commit and its response", control, figure, broken)


async def until_answered(service: Service, path: str, headers: Headers) -> httpx2.Response:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            try:
                answer = await service.client.post(path, headers=headers)
            except httpx2.HTTPError:
                await asyncio.sleep(0.1)
                continue
            if answer.status_code == 201:
                return answer
            await asyncio.sleep(0.1)
