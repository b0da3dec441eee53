"""Liveness and readiness."""

import asyncio
import logging
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest
from fastapi import FastAPI
from sqlalchemy import text

from app.infra.database import schema_version
from app.infra.database.schema_version import read_revisions
from app.infra.health import lifespan
from app.infra.resources import ProcessResources
from app.settings import Settings
from tests.application import client_of, running


@pytest.fixture
async def fresh(settings: Settings) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of a process that has just started."""
    async with running(settings) as app, client_of(app) as client:
        yield client


@pytest.fixture
async def revision(resources: ProcessResources) -> AsyncIterator[None]:
    """Put the revision back afterwards."""
    yield
    await set_revision(resources, read_revisions().head)


async def set_revision(resources: ProcessResources, revision: str) -> None:
    async with resources.database.transaction() as session:
        await session.execute(text(f"UPDATE alembic_version SET version_num = '{revision}'"))


async def test_a_process_is_ready_once_it_reached_its_database(
    fresh: httpx2.AsyncClient,
) -> None:
    response = await fresh.get("/readyz")
    assert response.status_code == 200
    assert response.json() == {
        "status": "ready",
        "checks": {"database": "ok", "valkey": "ok", "storage": "ok", "cache": "trusted"},
    }


async def test_a_process_is_not_ready_while_the_schema_is_behind(
    fresh: httpx2.AsyncClient,
    resources: ProcessResources,
    revision: None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    await set_revision(resources, "0001")
    for _ in range(3):
        response = await fresh.get("/readyz")
        assert response.status_code == 503
        assert "database behind" in response.json()["detail"]
    await set_revision(resources, read_revisions().head)
    assert (await fresh.get("/readyz")).status_code == 200
    assert caplog.text.count("Migrate it with: python -m alembic upgrade head") == 1
    assert "up to date now" in caplog.text


def test_a_service_without_its_migrations_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(schema_version.PROJECT / "pyproject.toml", tmp_path)
    (tmp_path / "migrations" / "versions").mkdir(parents=True)
    monkeypatch.setattr(schema_version, "PROJECT", tmp_path)
    with pytest.raises(RuntimeError, match="has no migrations"):
        read_revisions()


async def test_a_newer_schema_is_ready(
    fresh: httpx2.AsyncClient, resources: ProcessResources, revision: None
) -> None:
    await set_revision(resources, "from-the-future")
    assert (await fresh.get("/readyz")).status_code == 200


async def test_a_ready_process_stays_ready_and_tells_what_fails(
    app_without_servers: FastAPI,
) -> None:
    app_without_servers.state.readiness._ready = True
    async with client_of(app_without_servers) as client:
        await client.get("/readyz")
        response = await client.get("/readyz")
    assert response.status_code == 200
    checks = response.json()["checks"]
    assert (checks["database"], checks["valkey"]) == ("unavailable", "unavailable")


@pytest.fixture
async def app_without_servers(settings: Settings) -> AsyncIterator[FastAPI]:
    """A process whose database and Valkey are away."""
    away = {
        "database": {"url": "postgresql://a:b@127.0.0.1:1/x"},
        "valkey": {"url": "redis://127.0.0.1:1/0"},
    }
    async with running(Settings.model_validate({**settings.model_dump(), **away})) as app:
        yield app


async def test_a_process_starts_and_lives_without_its_servers(
    app_without_servers: FastAPI,
) -> None:
    async with client_of(app_without_servers) as client:
        assert (await client.get("/livez")).status_code == 200
        response = await client.get("/readyz")
    assert response.status_code == 503
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["retry-after"] == "1"


async def test_a_check_that_outlives_its_probe_is_not_counted_as_the_probes(
    fresh: httpx2.AsyncClient, resources: ProcessResources
) -> None:
    """The `reports` fixture fails this test for a leaked connection."""
    assert (await fresh.get("/readyz")).status_code == 200
    async with resources.database.transaction() as session:
        await session.execute(text("LOCK TABLE alembic_version IN ACCESS EXCLUSIVE MODE"))
        response = await fresh.get("/readyz")
        assert response.status_code == 200


async def test_check_is_cancelled_when_the_application_fails(resources: ProcessResources) -> None:
    app = FastAPI()
    app.state.resources = resources
    with pytest.raises(RuntimeError, match="on purpose"):
        async with lifespan(app):
            check = app.state.readiness._running = asyncio.create_task(asyncio.Event().wait())
            raise RuntimeError("on purpose")
    await asyncio.wait({check}, timeout=60)
    assert check.cancelled()


async def test_a_check_that_fails_in_an_unknown_way_is_reported(
    fresh: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await fresh.get("/readyz")).status_code == 200

    def fail(*_: object) -> None:
        raise RuntimeError("This was raised on purpose.")

    monkeypatch.setattr("app.infra.database.schema.REVISION", object())
    monkeypatch.setattr("redis.asyncio.Redis.ping", fail)
    monkeypatch.setattr("app.infra.health.LATER_ANSWER_SECONDS", 60)
    response = await fresh.get("/readyz")
    assert response.status_code == 200
    checks = response.json()["checks"]
    assert (checks["database"], checks["valkey"]) == ("unavailable", "unavailable")
