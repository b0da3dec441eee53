"""A request that takes too long is answered with 503, and releases its connection and its locks."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx2
import pytest
from fastapi import FastAPI
from sqlalchemy import text
from starlette.responses import StreamingResponse

from app.infra.dependencies import ReadSession, WriteSession
from app.infra.http_client.deadline import end_of_request
from app.infra.observability.metrics import REFUSED
from app.settings import Settings
from tests.application import client_of, running

Client = httpx2.AsyncClient
SECONDS = 0.2
STREAM_SECONDS = 2  # enough for a busy machine to start the response
FOREVER_SECONDS = 3_600
SLEEP = text(f"SELECT pg_sleep({FOREVER_SECONDS})")
PATIENCE_SECONDS = 60
IDLE = text("""
    SELECT count(*) FROM pg_stat_activity
    WHERE state LIKE 'idle in transaction%' AND datname = current_database()
""")


@asynccontextmanager
async def hurried(
    settings: Settings, seconds: float = SECONDS
) -> AsyncIterator[tuple[FastAPI, Client]]:
    """Run an application in which only the request timeout ends a slow request."""
    limits = settings.limits.model_copy(update={"request_seconds": seconds})
    patience = dict.fromkeys(
        ("statement_timeout_seconds", "command_timeout_seconds"), FOREVER_SECONDS
    )
    database = settings.database.model_copy(update={"pool_size": 2, **patience})
    changed = settings.model_copy(update={"limits": limits, "database": database})
    async with running(changed) as app:
        add_slow_routes(app)
        async with client_of(app) as client:
            yield app, client


def add_slow_routes(app: FastAPI) -> None:
    @app.get("/slow/read")
    async def read(session: ReadSession) -> None:
        await session.execute(SLEEP)

    @app.get("/slow/write")
    async def write(session: WriteSession) -> None:
        await session.execute(text("CREATE TABLE late (id int)"))
        await asyncio.sleep(FOREVER_SECONDS)

    @app.get("/slow/both")
    async def both(session: WriteSession) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(FOREVER_SECONDS))
            await session.execute(SLEEP)

    @app.get("/slow/stream")
    async def stream() -> StreamingResponse:
        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(4):
                yield b"piece"
                await asyncio.sleep(STREAM_SECONDS / 2)

        return StreamingResponse(pieces())

    @app.get("/own-timeout")
    async def own_timeout() -> None:
        raise TimeoutError

    @app.get("/stubborn")
    async def stubborn() -> str:
        try:
            await asyncio.sleep(FOREVER_SECONDS)
        except asyncio.CancelledError:
            return "all the same"
        return "never"


@pytest.mark.parametrize("path", ["/slow/read", "/slow/write", "/slow/both"])
async def test_slow_request_is_503_and_releases_connections_locks_and_tasks(
    settings: Settings, path: str
) -> None:
    async with hurried(settings) as (app, client):
        tasks_before = len(asyncio.all_tasks())
        for _ in range(2):  # as many requests as there are connections
            responses = await asyncio.gather(*(client.get(path) for _ in range(2)))
            for response in responses:
                assert response.status_code == 503
                assert response.json()["detail"] == "The request took too long."
                assert response.json()["code"] == "unavailable"
                assert response.headers["retry-after"] == "1"
        held = app.state.resources
        assert app.state.concurrency_limiter.running == 0
        async with asyncio.timeout(PATIENCE_SECONDS):
            while held.database.engine.pool.checkedout() or len(asyncio.all_tasks()) > tasks_before:
                await asyncio.sleep(0.01)
        async with held.database.read() as session:
            async with asyncio.timeout(PATIENCE_SECONDS):  # PostgreSQL closes it with a delay
                while await session.scalar(IDLE):
                    await asyncio.sleep(0.01)
            assert await session.scalar(text("SELECT to_regclass('late')")) is None


async def test_stream_that_has_started_is_not_cut_off(settings: Settings) -> None:
    async with hurried(settings, STREAM_SECONDS) as (_, client):
        response = await client.get("/slow/stream")
        assert (response.status_code, response.text) == (200, "piece" * 4)


async def test_each_request_has_its_own_timeout(settings: Settings) -> None:
    async with hurried(settings) as (_, client):
        seconds = []
        now = asyncio.get_running_loop().time

        async def ask() -> None:
            began = now()
            assert (await client.get("/slow/read")).status_code == 503
            seconds.append(now() - began)

        async with asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(ask())
                await asyncio.sleep(SECONDS / 2)
        assert min(seconds) > SECONDS * 0.9


async def test_timeout_leaves_no_cancellation_on_the_task(settings: Settings) -> None:
    async with hurried(settings) as (_, client):
        task = asyncio.current_task()
        assert task is not None
        assert (await client.get("/stubborn")).json() == "all the same"
        assert task.cancelling() == 0
        assert (await client.get("/slow/read")).status_code == 503
        assert task.cancelling() == 0


async def test_cancellation_by_the_server_is_passed_on(settings: Settings) -> None:
    async with hurried(settings, FOREVER_SECONDS) as (app, client):
        task = asyncio.create_task(client.get("/slow/read"))
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not app.state.concurrency_limiter.running:
                await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_timeout_error_of_the_application_is_not_taken_for_a_slow_request(
    settings: Settings,
) -> None:
    async with hurried(settings, FOREVER_SECONDS) as (_, client):
        assert (await client.get("/own-timeout")).status_code == 500


async def test_timeout_error_of_a_stream_is_not_counted_as_a_slow_request(
    settings: Settings,
) -> None:
    before = REFUSED.labels("time")._value.get()
    async with hurried(settings, FOREVER_SECONDS) as (app, client):

        @app.get("/broken")
        async def broken() -> StreamingResponse:
            async def pieces() -> AsyncIterator[bytes]:
                yield b"piece"
                raise TimeoutError

            return StreamingResponse(pieces())

        assert (await client.get("/broken")).status_code == 200
    assert REFUSED.labels("time")._value.get() == before


async def test_calls_of_a_stream_have_no_limit_by_the_time_of_the_request(
    settings: Settings,
) -> None:
    ends: list[float | None] = []
    async with hurried(settings, FOREVER_SECONDS) as (app, client):

        @app.get("/calls")
        async def calls() -> StreamingResponse:
            async def pieces() -> AsyncIterator[bytes]:
                ends.append(end_of_request())
                yield b"piece"

            ends.append(end_of_request())
            return StreamingResponse(pieces())

        assert (await client.get("/calls")).text == "piece"
    before, meanwhile = ends
    assert before is not None
    assert meanwhile is None
