"""Fixtures for all tests.

The tests use a real PostgreSQL and Valkey. Each test process has its own database. Sessions commit
as they do in production, so the tables are emptied after each test that wrote to them.
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
from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import create_async_engine

from app.infra.database.base import Base
from app.infra.observability.diagnostics import listeners
from app.infra.resources import ProcessResources
from app.infra.settings_base.sources import ignore_libpq_variables
from app.infra.shutdown import server_shutdown
from app.infra.web import response_cache
from app.settings import Settings
from coherent_cache import budget, trust
from coherent_cache.relay import Relay
from dev.servers import embedded_servers
from tests.application import client_of, recorded_statements, running
from tests.cached_app import patient, patient_app
from tests.quotas import unreachable_quotas
from tests.tables import ALL_TABLES, delete_rows

PROJECT = Path(__file__).parents[1]
SERVERS = pytest.StashKey[ExitStack]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--faults", action="store_true", help="run the long fault cases as well")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the fault cases unless `--faults` asks for them, even if their folder was named.

    The drill takes longest, so it comes first. Otherwise one process would run it at the end, when
    the other processes have nothing left to do.
    """
    items.sort(key=lambda item: item.path.name != "test_drill.py")
    if config.getoption("faults"):
        return
    long = [item for item in items if item.get_closest_marker("faults")]
    items[:] = [item for item in items if item not in long]
    config.hook.pytest_deselected(items=long)


def pytest_configure(config: pytest.Config) -> None:
    """Start the servers once, in the parent of the test processes."""
    ignore_libpq_variables()
    if "TEST_DATABASE_URL" in os.environ:
        return
    stack = config.stash[SERVERS] = ExitStack()
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    servers = stack.enter_context(embedded_servers(folder, durable=False))
    os.environ["TEST_DATABASE_URL"] = servers.database_url
    os.environ["TEST_VALKEY_URL"] = servers.valkey_url
    os.environ["TEST_RATE_LIMITS_URL"] = servers.rate_limits_url or servers.valkey_url
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
    """Stop the servers, in the process that started them."""
    if SERVERS in config.stash:
        config.stash[SERVERS].close()


@pytest.fixture(scope="session", autouse=True)
def relays_at_rest() -> Iterator[None]:
    """Run each relay until it grants a lease, and let that lease last forever.

    The event loop does not run between tests, so a lease would expire. On a busy machine the poll
    at the start of the application may fail, so that the relay has to grant it.
    """

    async def rest(relay: Relay) -> None:
        while not relay._trust.holds:
            await relay.run_once()
            await asyncio.sleep(0.1)
        await asyncio.Event().wait()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trust, "LEASE_SECONDS", float("inf"))
        patch.setattr(Relay, "run", rest)
        yield


@pytest.fixture(scope="session", autouse=True)
def patient_reads() -> Iterator[None]:
    """Let no read of a cacheable route be refused on a busy machine."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (budget, response_cache):
            patch.setattr(module, "READ_SECONDS", 60)
        yield


@pytest.fixture(autouse=True)
def reports() -> Iterator[list[tuple[str, str]]]:
    """The reports of the diagnostics. A test fails for each report that it does not remove."""
    found: list[tuple[str, str]] = []
    listeners.append(listen := lambda name, description: found.append((name, description)))
    yield found
    listeners.remove(listen)
    assert not found


@pytest.fixture(scope="session")
async def database_url(worker_id: str) -> str:
    """The database of this process, cloned from the migrated one, with the table of the sample."""
    server = os.environ["TEST_DATABASE_URL"]
    base, _, template = server.rpartition("/")
    name = f"test_{worker_id}"
    connection = await asyncpg.connect(f"{base}/postgres")
    await connection.execute(f'CREATE DATABASE {name} TEMPLATE "{template}"')
    await connection.close()
    url = f"{base}/{name}"
    await create_sample_table(url)
    return url


async def create_sample_table(url: str) -> None:
    engine = create_async_engine(make_url(url).set(drivername="postgresql+asyncpg"))
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all, [Base.metadata.tables["test_notes"]])
    await engine.dispose()


@pytest.fixture(scope="session")
def settings(
    database_url: str, worker_id: str, tmp_path_factory: pytest.TempPathFactory
) -> Settings:
    """Production's settings, except for addresses, cheap password hashes, and long timeouts.

    Tests must pass on a busy machine. A test of a timeout sets that timeout itself.
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
            # All tests are one client. A test of a limit sets its quota itself.
            "rate_limits": {
                "url": os.environ.get("TEST_RATE_LIMITS_URL", os.environ["TEST_VALKEY_URL"]),
                "timeout_seconds": 5,
                "quotas": unreachable_quotas(),
            },
            "mail": {"folder": tmp_path_factory.mktemp("mails")},
            "storage": {"folder": tmp_path_factory.mktemp("objects"), "timeout_seconds": 30},
            "avatars": {"queue": 100, "queue_seconds": 60, "seconds": 60},
            # Tests block the event loop themselves, for example when they start a process.
            "guards": {"blocked_seconds": 3_600},
            "metrics": {"server_timing": False},
            # Tests send more requests at once than a worker runs at once.
            "limits": {
                "uploads": 10_000,
                "queued": 10_000,
                "queue_seconds": 60,
                "request_seconds": 60,
            },
            "server": {"graceful_timeout_seconds": 90},
            "auth": {"argon2_memory_kib": 64, "argon2_time_cost": 1, "hashing_queue_seconds": 60},
        }
    )


@pytest.fixture(scope="session")
async def app(settings: Settings) -> AsyncIterator[FastAPI]:
    """The application with its lifespan started."""
    async with running(settings) as app:
        yield app


@pytest.fixture(scope="session")
async def resources(app: FastAPI) -> ProcessResources:
    """The resources that the application holds open."""
    held: ProcessResources = app.state.resources
    return held


@pytest.fixture(scope="module")
async def service(settings: Settings) -> AsyncIterator[FastAPI]:
    """An application whose cache works on a busy machine too."""
    async with patient_app(settings) as app:
        yield app


@pytest.fixture(scope="module")
async def another_process(settings: Settings) -> AsyncIterator[FastAPI]:
    """A second such application. It shares PostgreSQL and Valkey with the first."""
    async with patient_app(settings) as app:
        yield app


@pytest.fixture(scope="module")
async def uncached(settings: Settings) -> AsyncIterator[FastAPI]:
    """The application without a cache, whose answers are the true ones."""
    async with running(patient(settings, enabled=False)) as app:
        yield app


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
        await session.execute(text(delete_rows(ALL_TABLES)))
    assert resources.cache is not None
    await resources.cache.flush()


@pytest.fixture
def statements(resources: ProcessResources) -> Iterator[list[str]]:
    """The SQL that was sent to the database since the test began, or since `.clear()`."""
    with recorded_statements(resources) as sent:
        yield sent


@pytest.fixture(autouse=True)
def own_shutdown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the shutdown of the server reach only the applications that this test starts.

    Otherwise the application that all tests of a process share would refuse exports and streams to
    the tests that follow.
    """
    monkeypatch.setattr(server_shutdown, "events", set())
    monkeypatch.setattr(server_shutdown, "has_begun", False)
