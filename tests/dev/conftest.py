"""Fixtures for the tests of the development commands."""

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", autouse=True)
def no_coverage_of_commands() -> Iterator[None]:
    """Measure no coverage in the processes that start here, because `dev` is not measured.

    It would make each start slower by half.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)
        yield
