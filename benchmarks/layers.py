"""Measures the CPU time that each middleware and observer adds to a request.

`python -m benchmarks.layers ROUNDS` measures all of them in one process, in turns, so that other
programs on the machine disturb all of them equally. The time of the thread that writes the log is
included. The section `middleware` of `make bench` runs it in a process of its own, with PostgreSQL,
Valkey and demo data.
"""

import asyncio
import gc
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextvars import Context
from pathlib import Path

import uvloop
from fastapi import FastAPI, Request, Response
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.types import ASGIApp, Message, Receive, Scope, Send

if __name__ == "__main__":  # before prometheus_client is imported
    os.environ.setdefault("PROMETHEUS_MULTIPROC_DIR", tempfile.mkdtemp(prefix="layers-"))

from app.infra.observability.logs import Log, as_json
from app.infra.observability.request_context import request_context
from app.infra.web.head_requests import HeadRequestMiddleware
from app.infra.web.observe_requests import ObservationMiddleware
from app.infra.web.rate_limit import count_hit
from app.infra.web.rate_limited import default_limits
from app.infra.web.response_headers import process_time, request_id_header
from app.infra.web.server_error import UnhandledErrorMiddleware
from app.main import create_app, inner_middleware, observers
from app.settings import load_settings

REQUESTS = 1_000
ROUTE, CACHED = "/v1/users/me", "/v1/users/1"
# The layers inside the observation, outermost first, without the rate limits.
NAMES = (
    *("head", "catch all", "response cache", "upload queue"),
    *("body limit", "concurrency limit", "deadline"),
)
HIT = "cached response"
SCOPE = {
    "type": "http",
    "client": ("203.0.113.9", 50_000),
    "method": "GET",
    "query_string": b"",
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


async def microseconds(app: ASGIApp, scope: Scope, log: Log) -> float:
    """Return the CPU time of a request. Each one has its own task and context, as in a server."""

    async def request() -> None:
        await app(dict(scope), receive, sent)

    task = asyncio.get_running_loop().create_task
    began = time.process_time()
    for _ in range(REQUESTS):
        await task(request(), context=Context())
    log.writer.close()  # its time is counted too
    return (time.process_time() - began) / REQUESTS * 1e6


def stacks(service: FastAPI, log: Log) -> Iterator[tuple[str, ASGIApp]]:
    """Yield the application alone, then with one layer around it, with two, and so on.

    The section knows which of the stacks has one layer less.
    """
    headers, observing = [request_id_header, process_time], observers(service.state.settings, log)
    yield "none", answer
    yield "request id", ObservationMiddleware(answer, headers=headers[:1], observers=[])
    yield "timing", ObservationMiddleware(answer, headers=headers, observers=[])
    for count, name in enumerate(("metrics", "access log", "guard"), 1):
        yield name, ObservationMiddleware(answer, headers=headers, observers=observing[:count])

    def observed(layers: Sequence[Middleware], app: ASGIApp = answer) -> ASGIApp:
        for layer, args, options in reversed(layers):
            app = layer(app, *args, **options)
        return ObservationMiddleware(app, headers=headers, observers=observing)

    outer = [Middleware(HeadRequestMiddleware), Middleware(UnhandledErrorMiddleware)]
    cache, uploads, rate_limits, *inner = inner_middleware(
        service.state.settings, service.state.concurrency_limiter
    )
    layers = [*outer, cache, uploads, *inner]
    for count, (name, _) in enumerate(zip(NAMES, layers, strict=True), 1):
        yield name, observed(layers[:count])
    # Waiting for Valkey takes so long that it would hide what the layers inside it cost.
    yield "rate limits", observed([*outer, cache, uploads, rate_limits])
    yield HIT, observed([*outer, cache], FastAPI.build_middleware_stack(service))
    yield "rate limits of a cached response", observed([*outer, Middleware(HitLimits)])
    yield "base http", NothingMiddleware(answer)


async def measure(log: Log, rounds: int) -> dict[str, float]:
    """Return the lowest CPU time of a request in each stack. Other programs only increase it."""
    service = create_app(load_settings())
    built = dict(stacks(service, log))
    taken: dict[str, list[float]] = {name: [] for name in built}
    async with service.router.lifespan_context(service):
        for _ in range(rounds):
            for name, app in built.items():
                path = CACHED if name == HIT else ROUTE
                scope = SCOPE | {"app": service, "path": path}
                taken[name].append(await microseconds(app, scope, log))
    return {name: min(times) for name, times in taken.items()}


def main(rounds: int) -> None:
    """Print the CPU time of a request in each stack, in microseconds, as JSON."""
    with Path(os.devnull).open("wb") as nowhere:
        log = Log(load_settings().log, as_json, nowhere.fileno())
        print(json.dumps(uvloop.run(measure(log, rounds))))


if __name__ == "__main__":
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)  # as in a worker
    main(int(sys.argv[1]))
