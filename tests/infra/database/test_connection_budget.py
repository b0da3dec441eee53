"""Start-up compares the size of all pools with the connections that PostgreSQL allows."""

import os
import subprocess
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy import make_url, text

from app.infra.database.connection_budget import (
    CONNECTIONS,
    JOBS_APPLICATION_NAME,
    ConnectionBudget,
    is_schema_behind,
    read_connection_budget,
)
from app.infra.database.settings import DatabaseSettings
from app.infra.lifespan import open_resources
from app.infra.resources import ProcessResources
from app.infra.settings_base.urls import asyncpg_arguments
from app.settings import Settings
from app.worker import create_worker

PROJECT = Path(__file__).parents[3]
JOBS = {"job_workers": 1, "concurrent_jobs": 3}
TAKEN = text("SELECT count(*) FROM pg_stat_activity WHERE application_name = :name")

OTHER_CLIENTS = (
    "SELECT count(*) FROM pg_stat_activity "
    "WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
)


def test_message_shows_the_calculation() -> None:
    budget = ConnectionBudget(
        workers=4,
        pool_size=10,
        cache_connections=1,
        replicas=3,
        job_workers=2,
        concurrent_jobs=8,
        max_connections=100,
        reserved=3,
        held_by_others=7,
    )
    assert (budget.needed, budget.free) == (152, 90)
    for figure in (
        "4 workers",
        "10 connections",
        "1 for the cache",
        "3 instances",
        "2 job workers × 10",
        "= 152",
        "100 in all",
        "has 90",
    ):
        assert figure in str(budget)


def test_budget_is_read_from_the_server(settings: Settings) -> None:
    budget = read_connection_budget(
        settings.database, workers=2, replicas=1, has_cache=True, **JOBS
    )
    assert isinstance(budget, ConnectionBudget)
    assert (budget.max_connections, budget.needed) == (100, 18 + 5)
    assert 0 < budget.free <= 97


async def test_only_connections_of_the_same_service_are_not_counted(settings: Settings) -> None:
    """They are replaced in a restart. A service with the same name in another database is not."""
    arguments = asyncpg_arguments(settings.database.url.get_secret_value())
    arguments["server_settings"] = {"application_name": "test_of_same_name"}
    async with AsyncExitStack() as stack:
        for options in ({}, {}, {"database": "postgres"}, {"database": "postgres"}):
            connection = await asyncpg.connect(**arguments | options)
            stack.callback(connection.terminate)
        asking = await asyncpg.connect(**arguments)
        stack.callback(asking.terminate)
        async with asking.transaction():  # pg_stat_activity does not change meanwhile
            [budget] = await asking.fetch(CONNECTIONS, ["test_of_same_name"])
            everybody = await asking.fetchval(OTHER_CLIENTS)
    assert everybody - budget[2] == 2


def test_service_without_cache_needs_no_connection_for_the_outbox(settings: Settings) -> None:
    budget = read_connection_budget(
        settings.database, workers=2, replicas=1, has_cache=False, **JOBS
    )
    assert isinstance(budget, ConnectionBudget)
    assert budget.needed == 16 + 4


async def test_worker_opens_no_more_connections_than_the_budget_counts(settings: Settings) -> None:
    name = "test_of_budget"
    async with open_resources(settings.sections(), name) as held, AsyncExitStack() as stack:
        for _ in range(settings.database.pool_size):
            session = await stack.enter_async_context(held.database.read())
            taken = await session.scalar(TAKEN, {"name": name})
    assert taken == settings.database.pool_size + 1


async def test_job_worker_opens_no_more_connections_than_the_budget_counts(
    settings: Settings, clean: None
) -> None:
    app = create_worker(settings)
    async with app.router.lifespan_context(app), AsyncExitStack() as stack:
        held: ProcessResources = app.state.resources
        for _ in range(settings.jobs.concurrency):
            session = await stack.enter_async_context(held.database.read())
            taken = await session.scalar(TAKEN, {"name": JOBS_APPLICATION_NAME})
    assert 0 <= settings.jobs.concurrency + 2 - taken <= 1  # the queue is opened a little later


def test_budget_is_none_while_the_server_is_unreachable() -> None:
    away = DatabaseSettings.model_validate({"url": "postgresql://a:b@127.0.0.1:1/x"})
    assert read_connection_budget(away, workers=2, replicas=1, has_cache=True, **JOBS) is None


def test_schema_is_not_called_behind_while_the_server_is_unreachable() -> None:
    away = DatabaseSettings.model_validate({"url": "postgresql://a:b@127.0.0.1:1/x"})
    assert not is_schema_behind(away)


def test_start_up_ends_if_the_database_refuses_the_login(settings: Settings) -> None:
    url = make_url(settings.database.url.get_secret_value()).set(database="no_such_database")
    refused = DatabaseSettings.model_validate({"url": url.render_as_string(hide_password=False)})
    with pytest.raises(SystemExit, match=r"DATABASE_URL: .* refuses the login .*no_such_database"):
        is_schema_behind(refused)


def serve(settings: Settings, **environment: str) -> subprocess.Popen[str]:
    url = settings.database.url.get_secret_value()
    return subprocess.Popen(
        [sys.executable, "-m", "app.serve"],
        cwd=PROJECT,
        env={**os.environ, "DATABASE_URL": url, "SERVER_PORT": "0", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
    )


def test_production_refuses_to_start_with_too_many_connections(settings: Settings) -> None:
    environment = {"ENVIRONMENT": "production", "AUTH_SECRET": "s" * 32, "REPLICAS": "100"}
    with serve(settings, **environment) as process:
        try:
            message, _ = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode != 0
    assert "max_connections" in message
    assert "Traceback" not in message


def test_development_starts_with_a_warning(settings: Settings) -> None:
    with serve(settings, REPLICAS="100") as process:
        assert process.stdout is not None
        deadline = time.monotonic() + 60
        lines: list[str] = []
        while "Application startup complete" not in "".join(lines):
            assert time.monotonic() < deadline
            lines.append(process.stdout.readline())
        process.terminate()
        process.communicate()
    assert any("Too many database connections" in line for line in lines)
