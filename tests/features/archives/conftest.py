"""Fixtures for the tests of `archives`."""

import pytest

from app.features.users.models import User
from app.infra.resources import ProcessResources
from tests.features.archives.factory import ArchiveFactory


@pytest.fixture
def make(resources: ProcessResources, clean: None) -> ArchiveFactory:
    return ArchiveFactory(resources)


@pytest.fixture
async def owner(make: ArchiveFactory) -> User:
    return await make.user(name="Ann", email="ann@example.com")


@pytest.fixture
def headers(make: ArchiveFactory, owner: User) -> dict[str, str]:
    """The headers of a request that `owner` makes."""
    return make.headers(owner)
