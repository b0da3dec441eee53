"""Fixtures for the tests of `comments`."""

import pytest

from app.infra.resources import ProcessResources
from tests.features.comments.factory import CommentFactory


@pytest.fixture
def make(resources: ProcessResources, clean: None) -> CommentFactory:
    return CommentFactory(resources)
