"""Fixtures for the tests of the infrastructure, which run on the sample feature."""

from pathlib import Path

import pytest

from app.infra.resources import ProcessResources
from tests.sample.factory import NoteFactory
from tests.tls import make_certificate


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for localhost; its key is beside it."""
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def make(resources: ProcessResources, clean: None) -> NoteFactory:
    return NoteFactory(resources)
