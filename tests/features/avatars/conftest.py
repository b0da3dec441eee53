"""Fixtures for the tests of `avatars`."""

import pytest

from app.features.users.models import User
from app.infra.resources import ProcessResources
from tests.features.avatars.factory import AvatarFactory


@pytest.fixture
def make(resources: ProcessResources, clean: None) -> AvatarFactory:
    return AvatarFactory(resources)


@pytest.fixture
async def owner(make: AvatarFactory) -> User:
    return await make.user()


@pytest.fixture
def headers(make: AvatarFactory, owner: User) -> dict[str, str]:
    """The headers of a request that `owner` makes."""
    return make.headers(owner)
