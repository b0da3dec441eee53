"""Small measurements of single claims, in one process without a server."""

import asyncio
import gc
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson
from fastapi import FastAPI, Response
from pydantic import BaseModel
from starlette.types import Message

from benchmarks.blog.schemas import PostPage

TIME = datetime(2026, 1, 1, tzinfo=UTC)
POST = {
    "id": 1,
    "author": {"id": 1, "name": "Ada", "avatar_url": None},
    "title": "The title of a post",
    "body": "Some words of ordinary length. " * 8,
    "comment_count": 3,
    "version": 1,
    "created_at": TIME.isoformat(),
    "updated_at": TIME.isoformat(),
}
PAGE = {"items": [POST] * 20, "next": "a cursor", "prev": None}


class ModelPost(BaseModel):
    id: int
    title: str
    body: str
    comment_count: int


@dataclass(slots=True)
class PlainPost:
    id: int
    title: str
    body: str
    comment_count: int


def measure(seconds: float) -> dict[str, float]:
    """Return ratios, each measured for about so many seconds."""
    fields = {"id": 1, "title": "A title", "body": "A body", "comment_count": 3}
    return {
        "orjson": best(lambda: json.dumps(PAGE), seconds)
        / best(lambda: orjson.dumps(PAGE), seconds),
        "pydantic-objects": best(lambda: ModelPost(**fields), seconds)
        / best(lambda: PlainPost(**fields), seconds),  # type: ignore[arg-type]
        "double-validation": asyncio.run(_double_validation(seconds)),
    }


def best(call: Callable[[], Any], seconds: float) -> float:
    """Return the lowest time of a call. Other programs only increase it."""
    gc.collect()
    lowest, until = float("inf"), time.monotonic() + seconds
    while time.monotonic() < until:
        started = time.process_time()
        for _ in range(200):
            call()
        lowest = min(lowest, time.process_time() - started)
    return lowest / 200


async def _double_validation(seconds: float) -> float:
    """Return what a request costs whose model is dumped and validated again, beside one without."""
    app = FastAPI()

    @app.get("/twice", response_model=PostPage)
    async def twice() -> dict[str, Any]:
        return PostPage.model_validate(PAGE).model_dump()

    @app.get("/once")
    async def once() -> Response:
        content = PostPage.model_validate(PAGE).model_dump_json()
        return Response(content, media_type="application/json")

    async def request(path: str) -> None:
        scope = {
            "type": "http",
            "method": "GET",
            "path": path,
            "query_string": b"",
            "headers": [],
        }
        await app(scope, _receive, _send)

    costs = {path: float("inf") for path in ("/twice", "/once")}
    until = time.monotonic() + 2 * seconds
    while time.monotonic() < until:
        for path in costs:
            costs[path] = min(costs[path], await _cost(lambda path=path: request(path)))  # type: ignore[misc]
    return costs["/twice"] / costs["/once"]


async def _cost(call: Callable[[], Awaitable[None]]) -> float:
    started = time.process_time()
    for _ in range(50):
        await call()
    return time.process_time() - started


async def _receive() -> Message:
    return {"type": "http.request", "body": b""}


async def _send(_message: Message) -> None:
    pass
