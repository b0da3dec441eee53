"""What several tests of the infrastructure share."""

from pathlib import Path

import pytest

from tests.tls import make_certificate


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for localhost; its key is beside it."""
    return make_certificate(tmp_path_factory.mktemp("tls"))
