"""Fixtures for the tests of `accounts`."""

import pytest

from app.features.users.models import Role, User
from app.infra.resources import ProcessResources
from tests.features.users.factory import UserFactory


@pytest.fixture
def make(resources: ProcessResources, clean: None) -> UserFactory:
    return UserFactory(resources)


@pytest.fixture
async def admin(make: UserFactory) -> User:
    return await make.user(email="admin@example.com", role=Role.ADMIN)


@pytest.fixture
def headers(make: UserFactory, admin: User) -> dict[str, str]:
    return make.headers(admin)
