"""Start-up compares the pools with what the database has."""

import os
import subprocess
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path

from sqlalchemy import text

from app.infra.database.connection_budget import ConnectionBudget, read_connection_budget
from app.infra.database.settings import DatabaseSettings
from app.infra.lifespan import open_resources
from app.settings import Settings

PROJECT = Path(__file__).parents[3]
TAKEN = text("SELECT count(*) FROM pg_stat_activity WHERE application_name = :name")


def test_the_arithmetic_is_in_the_message() -> None:
    capacity = ConnectionBudget(
        workers=4,
        pool_size=10,
        of_cache=1,
        replicas=3,
        max_connections=100,
        reserved=3,
        held_by_others=7,
    )
    assert (capacity.needed, capacity.free) == (132, 90)
    for figure in (
        "4 workers",
        "10 connections",
        "1 for the cache",
        "3 replicas",
        "= 132",
        "100 in all",
        "has 90",
    ):
        assert figure in str(capacity)


def test_the_server_is_asked(settings: Settings) -> None:
    capacity = read_connection_budget(settings.database, workers=2, replicas=1, has_cache=True)
    assert isinstance(capacity, ConnectionBudget)
    assert (capacity.max_connections, capacity.needed) == (100, 12)
    assert 0 < capacity.free <= 97


def test_a_service_without_a_cache_does_not_look_at_the_outbox(settings: Settings) -> None:
    capacity = read_connection_budget(settings.database, workers=2, replicas=1, has_cache=False)
    assert isinstance(capacity, ConnectionBudget)
    assert capacity.needed == 10


async def test_a_worker_takes_no_more_connections_than_are_counted(settings: Settings) -> None:
    name = "test_of_capacity"
    async with open_resources(settings.sections(), name) as held, AsyncExitStack() as stack:
        for _ in range(settings.database.pool_size):
            session = await stack.enter_async_context(held.database.read())
            taken = await session.scalar(TAKEN, {"name": name})
    assert taken == settings.database.pool_size + 1


def test_a_server_that_is_away_cannot_be_asked() -> None:
    away = DatabaseSettings.model_validate({"url": "postgresql://a:b@127.0.0.1:1/x"})
    assert read_connection_budget(away, workers=2, replicas=1, has_cache=True) is None


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


def test_production_refuses_to_start_beyond_it(settings: Settings) -> None:
    environment = {"ENVIRONMENT": "production", "AUTH_SECRET": "s" * 32, "REPLICAS": "100"}
    with serve(settings, **environment) as process:
        try:
            message, _ = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode != 0
    assert "max_connections" in message
    assert "Traceback" not in message


def test_development_is_warned(settings: Settings) -> None:
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
