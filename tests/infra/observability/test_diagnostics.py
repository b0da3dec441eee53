"""Each guard catches the mistake that is planted here, and names it."""

import asyncio
import gc
import time
from collections.abc import AsyncIterator

import httpx2
import pytest
from fastapi import FastAPI
from sqlalchemy import text

from app.infra.dependencies import ReadSession, Resources
from app.settings import Settings
from tests.application import client_of, running
from tests.coherent_cache.worker import eventually

Client = httpx2.AsyncClient
Findings = list[tuple[str, str]]

END_OTHERS = text(
    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
)


@pytest.fixture
async def service(settings: Settings) -> AsyncIterator[FastAPI]:
    """The application, with the mistakes that need a database."""
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
            kept.append(session)

        kept: list[object] = []
        yield app
        for session in kept:
            await session.close()  # type: ignore[attr-defined]


def planted_block() -> None:
    time.sleep(1.5)  # long, because what a busy machine withholds is taken off


async def test_a_blocked_loop_is_told_with_the_stack_that_blocks(
    settings: Settings, findings: Findings
) -> None:
    values = {**settings.model_dump(), "guards": {"blocked_seconds": 0.2}}
    async with running(Settings.model_validate(values)) as app:

        @app.get("/blocks")
        async def blocks() -> None:
            planted_block()

        async with client_of(app) as client:
            await client.get("/blocks")
        await eventually(lambda: findings)
    [(guard, finding)] = findings
    assert guard == "blocked_loop"
    assert "planted_block" in finding
    findings.clear()


async def test_a_statement_for_each_row_is_named(service: FastAPI, findings: Findings) -> None:
    async with client_of(service) as client:
        await client.get("/repeats/5")
        assert not findings
        assert (await client.get("/repeats/6")).status_code == 200
    [(guard, finding)] = findings
    assert guard == "statement_budget"
    assert "GET /repeats/{times} sent 6 statements, 6 of them: SELECT name FROM users" in finding
    findings.clear()


async def test_a_session_that_is_left_open_is_told(service: FastAPI, findings: Findings) -> None:
    async with client_of(service) as client:
        await client.get("/leaks")
    [(guard, finding)] = findings
    assert guard == "leaked_connection"
    assert "GET /leaks ended and holds 1 connections" in finding
    findings.clear()


async def test_nothing_is_told_of_a_connection_that_the_server_has_closed_meanwhile(
    service: FastAPI, resources: Resources
) -> None:
    async with client_of(service) as client:
        await client.get("/repeats/1")
        async with resources.database.read() as session:
            await session.execute(END_OTHERS)
        await asyncio.sleep(0.1)  # until it has been heard of
        assert (await client.get("/repeats/1")).status_code == 200


async def test_a_task_whose_exception_nobody_takes_is_told(
    service: FastAPI, findings: Findings
) -> None:
    async def fail() -> None:
        raise ValueError

    asyncio.create_task(fail())  # noqa: RUF006 - that is the mistake
    await asyncio.sleep(0.01)
    gc.collect()
    assert {guard for guard, _ in findings} == {"lost_task"}
    assert any("never retrieved" in finding for _, finding in findings)
    findings.clear()
