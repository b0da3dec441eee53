"""Collects the verdicts of the fault cases, and provides the servers that they break."""

import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from app.infra.resources import ProcessResources
from dev.working_tree import commit
from tests.faults.postgres import Backend, open_backend
from tests.faults.service import Service, serving
from tests.faults.valkey import Valkey, open_own_valkey
from tests.faults.verdicts import Verdicts
from tests.sample.factory import NoteFactory
from tests.tables import SERVICE_TABLES, truncate

VERDICTS = pytest.StashKey[Verdicts]()
STARTED = pytest.StashKey[float]()
COMMIT = pytest.StashKey[str]()

Serve = Callable[..., AbstractAsyncContextManager[Service]]
Judge = Callable[..., None]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fault-table", type=Path, help="write the verdicts to this page")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[VERDICTS], config.stash[STARTED] = Verdicts(), time.monotonic()
    config.stash[COMMIT] = commit() if config.getoption("fault_table", default=None) else ""


def pytest_sessionfinish(session: pytest.Session) -> None:
    page: Path | None = session.config.getoption("fault_table", default=None)
    if page is not None:
        seconds = time.monotonic() - session.config.stash[STARTED]
        page.write_text(
            session.config.stash[VERDICTS].table(seconds, session.config.stash[COMMIT]),
            encoding="utf-8",
        )


@pytest.fixture
def judge(request: pytest.FixtureRequest) -> Judge:
    """Record the verdict on a case or on its control."""
    return request.config.stash[VERDICTS].judge


@pytest.fixture(scope="module")
def backend() -> Iterator[Backend]:
    """PostgreSQL and Valkey for this module alone, which its cases may break."""
    with TemporaryDirectory() as folder, open_backend(Path(folder)) as backend:
        yield backend


@pytest.fixture(scope="module")
def valkey() -> Iterator[Valkey]:
    """A Valkey for this module alone."""
    with TemporaryDirectory() as folder, open_own_valkey(Path(folder)) as valkey:
        yield valkey


@pytest.fixture
async def serve_cached(
    backend: Backend, valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Serve]:
    """Like `serve`, with the `valkey` of this module. Both servers are empty at the beginning."""
    await valkey.reset()
    await backend.rows(truncate(SERVICE_TABLES))
    yield partial(serving, replace(backend, valkey_url=valkey.url), monkeypatch)
    valkey.thaw()
    backend.thaw()


@pytest.fixture
async def serve(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Serve]:
    """Serve the application under Gunicorn, without the safeguard that the control names."""
    yield partial(serving, backend, monkeypatch)
    backend.thaw()


@pytest.fixture
def make(resources: ProcessResources, clean: None) -> NoteFactory:
    return NoteFactory(resources)
