"""The servers that `make bench` compares with the service return the same data.

Some of them need packages that only `make bench` installs.
"""

import asyncio
import importlib
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.types import ASGIApp

from app.infra.resources import ProcessResources
from app.settings import Settings
from benchmarks.cases import NEW_POST, comparable
from benchmarks.sections import ladder
from tests.application import client_of
from tests.features.posts.factory import PostFactory

FOLDER = Path(__file__).parents[2] / "benchmarks"
STEPS = sorted(path.stem for path in (FOLDER / "mistakes").glob("step_*.py"))
NEEDS = {"blacksheep_app": "blacksheep", "litestar_app": "litestar"}
COMPARED = [
    *(f"benchmarks.mistakes.{step}" for step in STEPS),
    "benchmarks.floors.fastapi_asyncpg",
    "benchmarks.rivals.fastapi_idiom",
    "benchmarks.rivals.litestar_app",
    "benchmarks.rivals.blacksheep_app",
]


def sample(rps: float, p50: float) -> dict[str, float]:
    return dict.fromkeys(("p95", "p99", "cpu", "postgres", "memory"), 1.0) | {
        "rps": rps,
        "p50": p50,
        "refused": 0.0,
    }


@asynccontextmanager
async def running(app: ASGIApp) -> AsyncIterator[httpx2.AsyncClient]:
    """Run an ASGI application with its lifespan, as a server does."""
    received: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    sent: asyncio.Queue[Any] = asyncio.Queue()
    scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
    task: asyncio.Task[None] = asyncio.create_task(app(scope, received.get, sent.put))  # type: ignore[arg-type]
    received.put_nowait({"type": "lifespan.startup"})
    assert (await sent.get())["type"] == "lifespan.startup.complete"
    async with client_of(app) as client:
        yield client
    received.put_nowait({"type": "lifespan.shutdown"})
    await task


@pytest.mark.parametrize("name", COMPARED)
async def test_compared_servers_return_the_same_data_as_the_service(
    name: str,
    app: FastAPI,
    client: httpx2.AsyncClient,
    resources: ProcessResources,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    clean: None,
) -> None:
    pytest.importorskip("psycopg" if "step_0" in name or "step_1" in name else "asyncpg")
    pytest.importorskip(NEEDS.get(name.rpartition(".")[2], "asyncpg"))
    posts = PostFactory(resources)
    author = await posts.user()
    newest = (await posts.posts(30, author))[-1]
    url = settings.database.url.get_secret_value().replace("postgresql+asyncpg", "postgresql")
    monkeypatch.setenv("DATABASE_URL", url)
    monkeypatch.setenv("AUTH_SECRET", settings.auth.secret.get_secret_value())
    monkeypatch.delitem(sys.modules, name, raising=False)
    module = importlib.import_module(name)
    headers = posts.headers(author)
    requests: list[tuple[str, str, dict[str, Any]]] = [
        ("GET", "/v1/posts", {}),
        ("GET", f"/v1/posts/{newest.id}", {}),
        ("GET", "/v1/users/me", {"headers": headers}),
        (
            "POST",
            "/v1/posts",
            {"headers": headers | {"Content-Type": "application/json"}, "content": NEW_POST},
        ),
    ]
    async with running(module.app) as other:
        for method, path, content in requests:
            expected = await client.request(method, path, **content)
            found = await other.request(method, path, **content)
            assert found.status_code == expected.status_code
            assert comparable(found.json()) == comparable(expected.json())
        assert (await other.get("/v1/users/me")).status_code in (401, 400)
        assert (await other.get("/v1/posts/999999")).status_code == 404
    if isinstance(engine := getattr(module, "engine", None), AsyncEngine):
        await engine.dispose()
    elif engine is not None:
        engine.dispose()


def test_rate_of_steps_that_block_is_that_of_their_batches() -> None:
    samples = {"all-mistakes": sample(900, 1_000), "pooled-engine": sample(900, 500)}
    samples |= {"async-driver": sample(640, 100)}
    figures = ladder.figures({"row": 1, "cases": {"page": samples}})
    assert figures["ladder.all-mistakes.page.rps"] == "64.0"
    assert figures["ladder.pooled-engine.page.gain"] == "2.0×"
    assert figures["ladder.async-driver.page.gain"] == "10×"
    assert figures["ladder.async-driver.page.step"] == "5.0×"
