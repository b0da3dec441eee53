"""Places for responses that last long: refusals are counted, and no client is remembered."""

import tracemalloc
from collections.abc import Iterator

import pytest
from prometheus_client import REGISTRY

from app.errors import RateLimited, Unavailable
from app.infra.places import Places


def refused(limit: str) -> float:
    return REGISTRY.get_sample_value("http_requests_refused_total", {"limit": limit}) or 0


@pytest.fixture
def tracing() -> Iterator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


def test_refusals_are_counted_for_each_of_the_two_limits() -> None:
    places = Places("calls", "calls", most=2, per_client=1)
    before = refused("calls_per_client"), refused("calls")
    with places.take("a"):
        with pytest.raises(RateLimited), places.take("a"):
            pass
        assert (refused("calls_per_client"), refused("calls")) == (before[0] + 1, before[1])
        with places.take("b"), pytest.raises(Unavailable), places.take("c"):
            pass
    assert (refused("calls_per_client"), refused("calls")) == (before[0] + 1, before[1] + 1)


def test_client_that_has_left_takes_no_memory(tracing: None) -> None:
    """Otherwise a process would remember every address that has ever had a place."""
    places = Places("calls", "calls", most=1, per_client=1)
    before = tracemalloc.get_traced_memory()[0]
    for number in range(10_000):
        with places.take(f"client {number}"):
            assert places.taken == 1
    assert tracemalloc.get_traced_memory()[0] - before < 100_000
