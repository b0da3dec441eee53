"""Real servers, production sessions: each test process has a database of its own, emptied after
every test that wrote to it.
"""

import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path

import asyncpg
import httpx2
import pytest
from fastapi import FastAPI
from sqlalchemy import text

from app.infra.dependencies import ProcessResources
from app.infra.observability.diagnostics.report import listeners
from app.infra.settings_base.sources import ignore_libpq_variables
from app.settings import Settings
from coherent_cache import trust
from coherent_cache.relay import Relay
from dev.servers import embedded_servers
from tests.application import client_of, recorded_statements, running
from tests.factories import Factory

PROJECT = Path(__file__).parents[1]
TABLES = "users, posts, comments, refresh_tokens, cache_outbox"
SERVERS = pytest.StashKey[ExitStack]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--faults", action="store_true", help="run the long fault cases as well")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the fault cases out unless `--faults` asks for them, whichever folder was named."""
    if config.getoption("faults"):
        return
    long = [item for item in items if item.get_closest_marker("faults")]
    items[:] = [item for item in items if item not in long]
    config.hook.pytest_deselected(items=long)


def pytest_configure(config: pytest.Config) -> None:
    """Start the servers once, in the process that the others are children of."""
    ignore_libpq_variables()
    if "TEST_DATABASE_URL" in os.environ:
        return
    stack = config.stash[SERVERS] = ExitStack()
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    servers = stack.enter_context(embedded_servers(folder, durable=False))
    os.environ["TEST_DATABASE_URL"] = servers.database_url
    os.environ["TEST_VALKEY_URL"] = servers.valkey_url
    subprocess.run(
        [sys.executable, "-m", "alembic", "upgrade", "head"],
        cwd=PROJECT,
        env={
            **os.environ,
            "DATABASE_URL": servers.database_url,
            "VALKEY_URL": servers.valkey_url,
        },
        check=True,
    )


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop what was started here."""
    if SERVERS in config.stash:
        config.stash[SERVERS].close()


@pytest.fixture(scope="session", autouse=True)
def relays_at_rest() -> Iterator[None]:
    """Let relays take their first turn alone, and let the trust that it grants last.

    The loop of the tests stands still between them, which would end the trust.
    """

    async def rest(_relay: Relay) -> None:
        await asyncio.Event().wait()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trust, "LEASE_SECONDS", float("inf"))
        patch.setattr(Relay, "run", rest)
        yield


@pytest.fixture(autouse=True)
def findings() -> Iterator[list[tuple[str, str]]]:
    """What the guards find in a test. It fails for what it has not taken out."""
    found: list[tuple[str, str]] = []
    listeners.append(listen := lambda guard, finding: found.append((guard, finding)))
    yield found
    listeners.remove(listen)
    assert not found


@pytest.fixture(scope="session")
async def database_url(worker_id: str) -> str:
    """A migrated database of this process, cloned from the one that was migrated once."""
    server = os.environ["TEST_DATABASE_URL"]
    base, _, template = server.rpartition("/")
    name = f"test_{worker_id}"
    connection = await asyncpg.connect(f"{base}/postgres")
    await connection.execute(f'CREATE DATABASE {name} TEMPLATE "{template}"')
    await connection.close()
    return f"{base}/{name}"


@pytest.fixture(scope="session")
def settings(database_url: str, worker_id: str) -> Settings:
    """Production's settings, but for addresses, the cost of a password, and the patience that tests
    need on a busy machine. A test of a timeout sets that timeout itself.
    """
    return Settings.model_validate(
        {
            "database": {"url": database_url, "pool_timeout_seconds": 60},
            "valkey": {
                "url": os.environ["TEST_VALKEY_URL"],
                "timeout_seconds": 5,
                "slow_seconds": 30,
            },
            "cache": {"namespace": worker_id},
            # Tests themselves hold the loop up, when they start a process for example.
            "guards": {"blocked_seconds": 3_600},
            "metrics": {"server_timing": False},
            # Tests ask more at once than they want answered at once.
            "limits": {"queued": 10_000, "queue_seconds": 60, "request_seconds": 60},
            "server": {"graceful_timeout_seconds": 90},
            "auth": {"argon2_memory_kib": 64, "argon2_time_cost": 1, "hashing_queue_seconds": 60},
        }
    )


@pytest.fixture(scope="session")
async def app(settings: Settings) -> AsyncIterator[FastAPI]:
    """The application, its lifespan begun."""
    async with running(settings) as app:
        yield app


@pytest.fixture(scope="session")
async def resources(app: FastAPI) -> ProcessResources:
    """What the application holds open."""
    held: ProcessResources = app.state.resources
    return held


@pytest.fixture
async def client(app: FastAPI, clean: None) -> AsyncIterator[httpx2.AsyncClient]:
    """A client that calls the application without a network."""
    async with client_of(app) as client:
        yield client


@pytest.fixture
async def clean(resources: ProcessResources) -> AsyncIterator[None]:
    """Empty every table, and the cache, after the test."""
    yield
    async with resources.database.transaction() as session:
        await session.execute(text(f"TRUNCATE {TABLES} RESTART IDENTITY CASCADE"))
    assert resources.cache is not None
    await resources.cache.flush()


@pytest.fixture
def make(resources: ProcessResources, clean: None) -> Factory:
    """Make rows, as their owners would have."""
    return Factory(resources)


@pytest.fixture
def statements(resources: ProcessResources) -> Iterator[list[str]]:
    """The SQL that was sent to the database since the test began, or since `.clear()`."""
    with recorded_statements(resources) as sent:
        yield sent
