"""Fixtures for the tests of `drafts`."""

import pytest

from app.features.users.models import User
from app.infra.resources import ProcessResources
from tests.features.drafts.factory import DraftFactory


@pytest.fixture
def make(resources: ProcessResources, clean: None) -> DraftFactory:
    return DraftFactory(resources)


@pytest.fixture
async def owner(make: DraftFactory) -> User:
    return await make.user()


@pytest.fixture
def headers(make: DraftFactory, owner: User) -> dict[str, str]:
    """The headers of a request that `owner` makes."""
    return make.headers(owner)
