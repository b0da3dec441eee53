"""What the process around a cache calls: callbacks, the health check and the metrics."""

import time
from collections.abc import Sequence

import pytest
from prometheus_client import REGISTRY

from coherent_cache import CACHE_ERRORS, invalidate
from coherent_cache.breaker import FAILURES_TO_OPEN
from tests.coherent_cache.service import Service
from tests.coherent_cache.worker import eventually

GAUGES = ("memory_bytes", "breaker_open", "distrusted", "outbox_oldest_seconds")


def measured(service: Service) -> tuple[float | None, ...]:
    service.cache.measure()
    return tuple(REGISTRY.get_sample_value(f"cache_{name}") for name in GAUGES)


async def test_callback_hears_the_tags_of_a_committed_change(service: Service) -> None:
    heard: list[Sequence[str] | None] = []
    service.cache.on_invalidated(heard.append)
    async with service.transaction() as session:
        invalidate(session, "tag", "other")
    await eventually(lambda: heard == [["other", "tag"]])


async def test_distrusted_cache_does_not_promise_to_hear_invalidations(service: Service) -> None:
    assert service.cache.hears_invalidations
    service.cache.trust.withdraw("a test")
    assert not service.cache.hears_invalidations


async def test_ping_fails_without_valkey(service: Service, cut_off: Service) -> None:
    await service.cache.ping()
    with pytest.raises(CACHE_ERRORS):
        await cut_off.cache.ping()


async def test_gauges_show_the_state_of_the_cache(service: Service) -> None:
    assert measured(service) == (0, 0, 0, 0)
    await service.remember("tag")
    size = service.cache.memory.bytes_held
    assert size > 0
    for _ in range(FAILURES_TO_OPEN):
        service.cache.store.breaker.failed(TimeoutError())
    assert measured(service) == (size, 1, 0, 0)
    service.cache.trust.polled(time.monotonic(), behind_seconds=7)
    assert measured(service) == (size, 1, 1, 7)
