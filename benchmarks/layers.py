"""Measures what each layer and observer costs a request, one more at a time.

`python -m benchmarks.layers` measures in one process and in turns, so that whatever else the
machine does meets all of them. Time is that of the process's CPUs, the thread of the log included.
"""

import asyncio
import gc
import os
import tempfile
import time
from collections.abc import Callable
from contextvars import Context
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

from starlette.types import ASGIApp, Message, Receive, Scope, Send

os.environ.setdefault("PROMETHEUS_MULTIPROC_DIR", tempfile.mkdtemp(prefix="layers-"))

from app.infra.observability.logs import Log, as_json
from app.infra.web.body_limit import BodyLimitMiddleware
from app.infra.web.concurrency_limit import ConcurrencyLimiter, ConcurrencyLimitMiddleware
from app.infra.web.head_requests import HeadRequestMiddleware
from app.infra.web.observe_requests import ObservationMiddleware
from app.infra.web.request_timeout import RequestTimeoutMiddleware
from app.infra.web.response_headers import process_time, request_id_header
from app.infra.web.server_error import UnhandledErrorMiddleware
from app.main import observers
from app.settings import load_settings
from dev.terminal import say

Layer = Callable[[ASGIApp], ASGIApp]

ROUNDS, REQUESTS = 81, 1_000
REPORT = Path(__file__).parent / "layers.md"
OBSERVING = ("request id", "timing", "metrics", "access log")


class Application:
    """What layers reach through the scope."""

    state = SimpleNamespace()


SCOPE = {
    "type": "http",
    "method": "GET",
    "path": "/v1/notes/77",
    "app": Application,
    "headers": [(b"host", b"127.0.0.1"), (b"user-agent", b"bench"), (b"accept", b"*/*")],
}


class Route:
    """What a router leaves in the scope."""

    path_format = "/v1/notes/{note_id}"


async def answer(scope: Scope, _receive: Receive, send: Send) -> None:
    """Answer, as what the layers stand around."""
    scope["route"] = Route
    await send({"type": "http.response.start", "status": 200, "headers": [(b"age", b"0")]})
    await send({"type": "http.response.body", "body": b"{}"})


async def receive() -> Message:
    """Have no body."""
    return {"type": "http.request", "body": b""}


async def sent(_message: Message) -> None:
    """Take the answer, as a server does."""


async def request(app: ASGIApp) -> None:
    """Ask once, as a server does."""
    await app(SCOPE.copy(), receive, sent)


async def microseconds(app: ASGIApp, log: Log) -> float:
    """Return the CPU time of one request, each in a task and a context of its own."""
    task = asyncio.get_running_loop().create_task
    began = time.process_time()
    for _ in range(REQUESTS):
        await task(request(app), context=Context())
    log.writer.close()  # its time is counted too
    return (time.process_time() - began) / REQUESTS * 1e6


def stacks(log: Log) -> dict[str, ASGIApp]:
    """Return the application inside of nothing, of one layer, of two, and so on."""
    settings = load_settings()
    headers, observing = [request_id_header, process_time], observers(settings.sections(), log)
    built: dict[str, ASGIApp] = {"none": answer}
    built["request id"] = ObservationMiddleware(answer, headers=headers[:1], observers=[])
    built["timing"] = ObservationMiddleware(answer, headers=headers, observers=[])
    for count, name in enumerate(("metrics", "access log", "guard"), 1):
        built[name] = ObservationMiddleware(answer, headers=headers, observers=observing[:count])
    limiter = ConcurrencyLimiter(settings.limits)
    limited = partial(ConcurrencyLimitMiddleware, limiter=limiter)
    inside: list[tuple[str, Layer]] = [
        ("catch all", UnhandledErrorMiddleware),
        ("head", HeadRequestMiddleware),
        (
            "body limit",
            partial(
                BodyLimitMiddleware,
                limit_bytes=settings.limits.body_bytes,
                most_values=settings.limits.body_values,
            ),
        ),
        ("concurrency limit", limited),
        ("deadline", partial(RequestTimeoutMiddleware, seconds=settings.limits.request_seconds)),
    ]
    for count, (name, _) in enumerate(inside, 1):
        app: ASGIApp = answer
        for _, layer in reversed(inside[:count]):
            app = layer(app)
        built[name] = ObservationMiddleware(app, headers=headers, observers=observing)
    return built


async def measure(log: Log) -> dict[str, float]:
    """Return the CPU time of a request inside of each stack: the least of the rounds.

    What else the machine does can only add to it.
    """
    built = stacks(log)
    taken: dict[str, list[float]] = {name: [] for name in built}
    for number in range(ROUNDS):
        if number % 20 == 0:
            say(f"Round {number + 1} of {ROUNDS}")
        for name, app in built.items():
            taken[name].append(await microseconds(app, log))
    return {name: min(times) for name, times in taken.items()}


def main() -> None:
    """Measure, and write the report."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)  # as in a worker
    with Path(os.devnull).open("wb") as nowhere:
        log = Log(load_settings().log, as_json, nowhere.fileno())
        costs = asyncio.run(measure(log))
    rows = [f"| none | {costs['none']:.1f} |"]
    rows += [f"| {name} | {costs[name] - costs[outer]:.1f} |" for outer, name in pairwise(costs)]
    together = costs[OBSERVING[-1]] - costs["none"]
    rows += [f"| {' + '.join(OBSERVING)} | {together:.1f} |"]
    REPORT.write_text(
        HEAD.format(rounds=ROUNDS, requests=REQUESTS) + "\n".join(rows) + "\n", encoding="utf-8"
    )
    say(f"{REPORT.read_text(encoding='utf-8')}\nWritten to {REPORT.relative_to(Path.cwd())}")


HEAD = """# What each layer costs

`python -m benchmarks.layers` writes this page anew: one process, each row one layer more around an
application that answers at once, the least of {rounds} rounds of {requests} requests, in turns.
The first row is that application with its task; the others are what the layer adds.

| layer | CPU µs |
|---|---|
"""

if __name__ == "__main__":
    main()
