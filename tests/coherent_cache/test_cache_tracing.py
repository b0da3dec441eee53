"""Each operation of a traced store has a span, which says whether the operation succeeded."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from redis.asyncio import Redis

from coherent_cache.cache_tracing import trace
from coherent_cache.config import CacheConfig
from coherent_cache.entry import Entry
from coherent_cache.store import Lease, Store, random_token


class Span:
    def __init__(self, name: str) -> None:
        self.name, self.attributes = name, dict[str, Any]()

    def set_attribute(self, name: str, value: Any) -> None:
        self.attributes[name] = value


async def test_operations_have_spans_that_tell_their_results(
    valkey: Redis, config: CacheConfig
) -> None:
    spans: list[Span] = []

    @contextmanager
    def open_span(name: str) -> Iterator[Span]:
        spans.append(Span(name))
        yield spans[-1]

    store, entry = Store(valkey, config), Entry("key", ("tag",), b"value")
    trace(store, open_span)
    lease = await store.lease("key", random_token(), b"")
    assert isinstance(lease, Lease)
    await store.fill(entry, lease)
    await store.look_up("key")
    await store.is_valid(entry)
    await store.invalidate_together(["tag"])
    await store.look_up("key")
    await store.is_valid(entry)
    await store.fill(entry, lease)
    assert [(span.name, span.attributes) for span in spans] == [
        ("cache fill", {"cache.stored": True}),
        ("cache look-up", {"cache.hit": True}),
        ("cache validation", {"cache.hit": True}),
        ("cache invalidation", {}),
        ("cache look-up", {"cache.hit": False}),
        ("cache validation", {"cache.hit": False}),
        ("cache fill", {"cache.stored": False}),
    ]
