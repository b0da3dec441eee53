"""Measures the CPU time that each middleware and observer adds to a request.

`python -m benchmarks.layers ROUNDS` measures all of them in one process, in turns, so that other
programs on the machine disturb all of them equally. The time of the thread that writes the log is
included. The section `middleware` of `make bench` runs it in a process of its own.
"""

import asyncio
import gc
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from contextvars import Context
from functools import partial
from pathlib import Path

from fastapi import FastAPI, Request, Response
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.types import ASGIApp, Message, Receive, Scope, Send

if __name__ == "__main__":  # before prometheus_client is imported
    os.environ.setdefault("PROMETHEUS_MULTIPROC_DIR", tempfile.mkdtemp(prefix="layers-"))

from app.infra.observability.logs import Log, as_json
from app.infra.observability.request_context import request_context
from app.infra.rate_limits.limiter import RateLimiter
from app.infra.rate_limits.settings import RateLimitSettings
from app.infra.security.access_tokens import AccessTokens
from app.infra.web.body_limit import BodyLimitMiddleware
from app.infra.web.concurrency_limit import ConcurrencyLimiter, ConcurrencyLimitMiddleware
from app.infra.web.head_requests import HeadRequestMiddleware
from app.infra.web.observe_requests import ObservationMiddleware
from app.infra.web.rate_limit import RequestLimits, count_hit
from app.infra.web.rate_limited import default_limits
from app.infra.web.request_timeout import RequestTimeoutMiddleware
from app.infra.web.response_headers import process_time, request_id_header
from app.infra.web.routing import use_route_table
from app.infra.web.server_error import UnhandledErrorMiddleware
from app.main import observers
from app.settings import load_settings

Layer = Callable[[ASGIApp], ASGIApp]

REQUESTS = 1_000


ROUTE = "/v1/notes/{note_id}"
service = FastAPI()
service.add_api_route(ROUTE, lambda: None)  # the body limit looks it up
use_route_table(service)

SCOPE = {
    "type": "http",
    "client": ("203.0.113.9", 50_000),
    "method": "GET",
    "path": "/v1/notes/77",
    "app": service,
    "headers": [(b"host", b"127.0.0.1"), (b"user-agent", b"bench"), (b"accept", b"*/*")],
}


async def answer(_scope: Scope, _receive: Receive, send: Send) -> None:
    """Answer as the cache does, which knows the route of an entry without looking it up."""
    if (current := request_context.get()) is not None:
        current.route = ROUTE
    await send({"type": "http.response.start", "status": 200, "headers": [(b"age", b"0")]})
    await send({"type": "http.response.body", "body": b"{}"})


class NothingMiddleware(BaseHTTPMiddleware):
    """Does nothing in the way that Starlette offers beside pure ASGI, for comparison."""

    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        return await call_next(request)


class HitLimits:
    """Counts each request as the response cache counts what it answers itself."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._limits = default_limits("GET")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not count_hit(self._limits, scope):
            await self.app(scope, receive, send)


async def receive() -> Message:
    return {"type": "http.request", "body": b""}


async def sent(_message: Message) -> None:
    pass


async def request(app: ASGIApp) -> None:
    await app(SCOPE.copy(), receive, sent)


async def microseconds(app: ASGIApp, log: Log) -> float:
    """Return the CPU time of a request. Each one has its own task and context, as in a server."""
    task = asyncio.get_running_loop().create_task
    began = time.process_time()
    for _ in range(REQUESTS):
        await task(request(app), context=Context())
    log.writer.close()  # its time is counted too
    return (time.process_time() - began) / REQUESTS * 1e6


def stacks(log: Log) -> dict[str, ASGIApp]:
    """Return the application alone, then with one layer around it, with two, and so on."""
    settings = load_settings()
    headers, observing = [request_id_header, process_time], observers(settings.sections(), log)
    built: dict[str, ASGIApp] = {"none": answer}
    built["request id"] = ObservationMiddleware(answer, headers=headers[:1], observers=[])
    built["timing"] = ObservationMiddleware(answer, headers=headers, observers=[])
    for count, name in enumerate(("metrics", "access log", "guard"), 1):
        built[name] = ObservationMiddleware(answer, headers=headers, observers=observing[:count])
    many = RateLimitSettings(quotas="*=1000000/1")
    rate_limiter = RateLimiter(many, None, namespace="bench", workers=1, hash_key=b"")
    service.state.request_limits = RequestLimits(rate_limiter, AccessTokens(settings.auth))
    limiter = ConcurrencyLimiter(settings.limits)
    limited = partial(ConcurrencyLimitMiddleware, limiter=limiter)
    inside: list[tuple[str, Layer]] = [
        ("catch all", UnhandledErrorMiddleware),
        ("head", HeadRequestMiddleware),
        ("rate limits of a cached response", HitLimits),
        (
            "body limit",
            partial(
                BodyLimitMiddleware,
                limit_bytes=settings.limits.body_bytes,
                most_values=settings.limits.body_values,
                uploads=settings.limits.uploads,
                upload_bytes=settings.limits.upload_bytes,
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
    built["base http"] = NothingMiddleware(answer)
    return built


async def measure(log: Log, rounds: int) -> dict[str, float]:
    """Return the lowest CPU time of a request in each stack. Other programs only increase it."""
    built = stacks(log)
    taken: dict[str, list[float]] = {name: [] for name in built}
    for _ in range(rounds):
        for name, app in built.items():
            taken[name].append(await microseconds(app, log))
    return {name: min(times) for name, times in taken.items()}


def main(rounds: int) -> None:
    """Print the CPU time of a request in each stack, in microseconds, as JSON."""
    with Path(os.devnull).open("wb") as nowhere:
        log = Log(load_settings().log, as_json, nowhere.fileno())
        print(json.dumps(asyncio.run(measure(log, rounds))))


if __name__ == "__main__":
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)  # as in a worker
    main(int(sys.argv[1]))
