"""Fixtures for the tests of `users`, which run with the sample feature."""

import pytest

from app.infra.resources import ProcessResources
from tests.sample.factory import NoteFactory


@pytest.fixture
def make(resources: ProcessResources, clean: None) -> NoteFactory:
    return NoteFactory(resources)
