"""Fixtures for the tests of the contract."""

from collections.abc import Generator, Iterator
from pathlib import Path

import httpx2
import pytest
from coverage import Coverage

from app.features.users.models import Role, User
from app.infra.events.hub import EventHub
from app.infra.resources import ProcessResources
from app.settings import Settings
from tests.contract.callers import Caller, log_in
from tests.contract.declaration import Ids
from tests.contract.features import make_rows
from tests.contract.serving import Served, serve
from tests.features.users.factory import UserFactory

FOLDER = Path(__file__).parent


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, bool, bool]:
    """Measure no coverage here, or in processes that start here: it doubles the time of the tests.

    They send many generated requests, so a line that they alone reach is not really tested. But
    `make mutate` asks which test runs which line.
    """
    is_here = item.path.is_relative_to(FOLDER)  # pytest calls this for the tests of all folders
    if not is_here or item.config.getoption("cov_context", None):
        return (yield)
    coverage = Coverage.current()
    if coverage is not None:
        coverage.stop()
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)
            return (yield)
    finally:
        if coverage is not None:
            coverage.start()


@pytest.fixture(autouse=True)
def streams_that_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each event stream end at once, so that these tests can call its route like any other."""
    monkeypatch.setattr(EventHub, "has_ended", lambda _hub, _listener: True)


@pytest.fixture
def served(settings: Settings, clean: None) -> Iterator[Served]:
    """The application, served on a port of the loopback."""
    with serve(settings) as served:
        yield served


@pytest.fixture
def make(resources: ProcessResources, clean: None) -> UserFactory:
    return UserFactory(resources)


@pytest.fixture
async def user(make: UserFactory) -> User:
    """An administrator, and not the only one, so that the account can be deleted."""
    await make.user(role=Role.ADMIN)
    return await make.user(role=Role.ADMIN)


@pytest.fixture
async def ids(make: UserFactory, user: User) -> Ids:
    """The id of `user`, and of one row of everything else. All of it is theirs."""
    return await make_rows(make.resources, user)


@pytest.fixture
async def owner(client: httpx2.AsyncClient, user: User, ids: Ids) -> Caller:
    """The user who owns everything in `ids`, logged in."""
    return await log_in(client, user)
