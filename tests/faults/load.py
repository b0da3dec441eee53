"""Open-loop load: requests are sent at a constant rate, whatever happens to earlier requests.

A closed loop sends nothing while the service stalls, so it never sees the stall.
"""

import asyncio
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

import httpx2

from tests.features.users.factory import PASSWORD

NO_ANSWER = 0
OPEN = "The database connection was lost. It is not known whether the change was stored."
NUMBER = count(1)


@dataclass(frozen=True)
class Answer:
    """One request: when it was sent (by the clock of the loop), how long it took, and its status.

    `detail` is the detail of a problem document.
    """

    sent_at: float
    seconds: float
    status: int
    detail: str = ""
    kept_form: bool = True

    @property
    def is_open(self) -> bool:
        """Whether the outcome is not known, because the commit was cut off."""
        return self.detail == OPEN


def answer_of(response: httpx2.Response, sent_at: float, seconds: float) -> Answer:
    """Check the form of a response. A 503 must have Retry-After."""
    status = response.status_code
    if status < 400:
        return Answer(sent_at, seconds, status)
    if response.headers["content-type"] != "application/problem+json":
        return Answer(sent_at, seconds, status, kept_form=False)
    problem = response.json()
    says_when = status != 503 or "retry-after" in response.headers
    kept_form = says_when and bool(problem["request_id"])
    return Answer(sent_at, seconds, status, problem["detail"], kept_form)


async def timed(client: httpx2.AsyncClient, method: str, path: str, **content: Any) -> Answer:
    """Send a request. Its status is 0 if it was cut off or took longer than the client waits."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    try:
        response = await client.request(method, path, **content)
    except httpx2.HTTPError:
        return Answer(started, loop.time() - started, NO_ANSWER)
    return answer_of(response, started, loop.time() - started)


@asynccontextmanager
async def constantly(
    rate: float, send: Callable[[int], Any], answers: list[Answer]
) -> AsyncIterator[None]:
    """Call `send` with 0, 1, 2, … at this rate per second. Wait for all responses at the end."""
    loop = asyncio.get_running_loop()
    tasks: list[asyncio.Task[Answer]] = []

    async def depart() -> None:
        started = loop.time()
        for number in count():
            await asyncio.sleep(started + number / rate - loop.time())
            tasks.append(loop.create_task(send(number)))

    departures = loop.create_task(depart())
    try:
        yield
    finally:
        departures.cancel()
        answers.extend(await asyncio.gather(*tasks))


async def register(client: httpx2.AsyncClient) -> tuple[str, dict[str, str]]:
    """Register an account. Return its email address and its Authorization header."""
    account = {"email": f"author{next(NUMBER)}@example.com", "name": "A", "password": PASSWORD}
    (await client.post("/v1/users", json=account)).raise_for_status()
    form = {"username": account["email"], "password": PASSWORD}
    token = (await client.post("/v1/auth/token", data=form)).raise_for_status().json()
    return account["email"], {"Authorization": f"Bearer {token['access_token']}"}


def unexpected(answers: Iterable[Answer], allowed: Sequence[int]) -> list[str]:
    """Return the responses with another status than the allowed ones, or in the wrong form."""
    wrong = Counter(answer.status for answer in answers if answer.status not in allowed)
    found = [f"{times} × {outcome(status)}" for status, times in sorted(wrong.items())]
    formless = sum(not answer.kept_form for answer in answers)
    return [", ".join(found)] * bool(found) + [f"{formless} responses in the wrong form"] * bool(
        formless
    )


def outcome(status: int) -> str:
    return f"status {status}" if status else "no response"


def slowest(answers: Iterable[Answer]) -> float:
    """Return the longest time in seconds."""
    return max((answer.seconds for answer in answers), default=0.0)


def percentile(answers: Iterable[Answer], share: float) -> float:
    """Return this percentile of the times in seconds."""
    times = sorted(answer.seconds for answer in answers)
    return times[int(len(times) * share)]


def late(what: str, seconds: float, limit: float) -> list[str]:
    """Return a sentence if something took longer than `limit`."""
    return [f"{what} after {seconds:.2f} s"] * (seconds > limit)


def free_port() -> int:
    """Return a port on which nothing listens."""
    with socket.socket() as candidate:
        candidate.bind(("127.0.0.1", 0))
        return int(candidate.getsockname()[1])
