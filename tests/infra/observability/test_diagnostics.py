"""The diagnostics report mistakes that are made here on purpose."""

import asyncio
import gc
import time
import warnings
from collections.abc import AsyncIterator

import pytest
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from prometheus_client import REGISTRY
from sqlalchemy import text

from app.infra.dependencies import ReadSession, Resources
from app.infra.observability.diagnostics import watch_event_loop, watch_tasks
from app.settings import Settings
from tests.application import client_of, running
from tests.coherent_cache.worker import eventually

Reports = list[tuple[str, str]]

CLOSE_OTHER_CONNECTIONS = text(
    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
)


@pytest.fixture
async def service(settings: Settings) -> AsyncIterator[FastAPI]:
    """The application, with routes that use the database wrongly."""
    guards = {**settings.guards.model_dump(), "statement_budget": 5}
    values = {**settings.model_dump(), "guards": guards}
    async with running(Settings.model_validate(values)) as app:

        @app.get("/repeats/{times}")
        async def repeats(times: int, session: ReadSession) -> None:
            for number in range(times):
                await session.execute(text("SELECT name FROM users WHERE id = :id"), {"id": number})

        @app.get("/leaks")
        async def leaks(held: Resources) -> None:
            session = held.database._read_sessions()
            await session.execute(text("SELECT 1"))
            leaked.append(session)

        @app.get("/streams/{times}")
        async def streams(times: int, held: Resources) -> StreamingResponse:
            async def answers() -> AsyncIterator[str]:
                for number in range(times):
                    async with held.database.read() as session:
                        yield str(await session.scalar(text("SELECT :n"), {"n": str(number)}))

            return StreamingResponse(answers())

        leaked: list[object] = []
        yield app
        for session in leaked:
            await session.close()  # type: ignore[attr-defined]


def lag_seconds() -> float:
    return REGISTRY.get_sample_value("event_loop_lag_seconds") or 0


def block_event_loop() -> None:
    time.sleep(3)  # long, because time without CPU on a busy machine is subtracted


async def test_blocked_event_loop_is_reported_with_the_stack(
    settings: Settings, reports: Reports
) -> None:
    values = {**settings.model_dump(), "guards": {"blocked_seconds": 1}}
    async with running(Settings.model_validate(values)) as app:

        @app.get("/blocks")
        async def blocks() -> None:
            block_event_loop()

        async with client_of(app) as client:
            await client.get("/blocks")
        await eventually(lambda: reports and lag_seconds() > 2)
    [(name, description)] = reports
    assert name == "blocked_loop"
    assert "block_event_loop" in description
    reports.clear()


def test_watchdog_does_not_report_a_loop_that_runs(reports: Reports) -> None:
    async def rest() -> None:
        with watch_event_loop(blocked_seconds=1):
            await asyncio.sleep(2.5)  # the thread checks it meanwhile

    asyncio.run(rest())
    assert not reports


async def test_too_many_statements_are_reported_with_the_repeated_one(
    service: FastAPI, reports: Reports
) -> None:
    async with client_of(service) as client:
        await client.get("/repeats/5")
        assert not reports
        assert (await client.get("/repeats/6")).status_code == 200
    [(name, description)] = reports
    assert name == "statement_budget"
    assert "GET /repeats/{times} sent 6 statements, 6 of them: SELECT name FROM" in description
    reports.clear()


async def test_statements_of_a_stream_are_counted_and_not_reported(
    service: FastAPI, reports: Reports
) -> None:
    def counted() -> float:
        return REGISTRY.get_sample_value("http_request_statements_sum") or 0

    before = counted()
    async with client_of(service) as client:
        assert (await client.get("/streams/8")).text == "01234567"
    assert not reports
    assert counted() == before + 8


async def test_session_that_is_not_closed_is_reported(service: FastAPI, reports: Reports) -> None:
    async with client_of(service) as client:
        await client.get("/leaks")
    [(name, description)] = reports
    assert name == "leaked_connection"
    assert "GET /leaks ended and holds 1 connections" in description
    reports.clear()


async def test_connection_that_the_server_closed_is_not_reported(
    service: FastAPI, resources: Resources
) -> None:
    async with client_of(service) as client:
        await client.get("/repeats/1")
        async with resources.database.read() as session:
            await session.execute(CLOSE_OTHER_CONNECTIONS)
        await asyncio.sleep(0.1)  # the client has then noticed it
        assert (await client.get("/repeats/1")).status_code == 200


async def test_task_whose_exception_nobody_handles_is_reported(
    service: FastAPI, reports: Reports
) -> None:
    async def fail() -> None:
        raise ValueError

    asyncio.create_task(fail())  # noqa: RUF006 - this is the mistake
    await asyncio.sleep(0.01)
    gc.collect()
    assert {name for name, _ in reports} == {"lost_task"}
    assert any("never retrieved" in description for _, description in reports)
    reports.clear()


async def test_task_that_never_ended_is_reported_without_an_exception(
    service: FastAPI, reports: Reports
) -> None:
    async def wait() -> None:
        await asyncio.Event().wait()

    asyncio.create_task(wait())  # noqa: RUF006 - this is the mistake
    await asyncio.sleep(0)
    gc.collect()
    [(_, description)] = reports
    assert description.startswith("Task was destroyed but it is pending!: ")
    assert description.endswith("wait")
    reports.clear()


async def test_async_generator_that_fails_in_a_task_is_reported(
    service: FastAPI, reports: Reports
) -> None:
    async def generate() -> AsyncIterator[int]:
        yield 1

    task = asyncio.get_running_loop().create_task(generate().athrow(ValueError()))  # type: ignore[attr-defined]
    await asyncio.wait({task})
    del task
    gc.collect()
    [(name, description)] = reports
    assert name == "lost_task"
    assert description.endswith("async_generator_athrow raised ValueError")
    reports.clear()


async def test_future_of_a_library_is_not_reported(service: FastAPI, reports: Reports) -> None:
    asyncio.get_running_loop().create_future().set_exception(ValueError())
    await asyncio.sleep(0)
    assert not reports


async def test_coroutine_that_nobody_awaits_is_reported(
    reports: Reports, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        pass

    monkeypatch.setattr(warnings, "showwarning", lambda *_, **__: None)
    with watch_tasks(), warnings.catch_warnings():
        warnings.simplefilter("always")
        work()  # type: ignore[unused-coroutine]
        gc.collect()
    [(name, description)] = reports
    assert name == "lost_task"
    assert "work' was never awaited" in description
    reports.clear()
