"""Fixtures for the tests of `posts`."""

import pytest

from app.infra.resources import ProcessResources
from tests.features.posts.factory import PostFactory


@pytest.fixture
def make(resources: ProcessResources, clean: None) -> PostFactory:
    return PostFactory(resources)
