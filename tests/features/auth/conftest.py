"""Fixtures for the tests of `auth`."""

import pytest

from app.infra.resources import ProcessResources
from tests.features.users.factory import UserFactory


@pytest.fixture
def make(resources: ProcessResources, clean: None) -> UserFactory:
    return UserFactory(resources)
