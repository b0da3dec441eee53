"""Adds a tracing span to each operation of the store."""

from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from typing import Any

from coherent_cache.entry import Entry
from coherent_cache.store import Store

# Opens a span by name. The span must have the method `set_attribute(name, value)`.
OpenSpan = Callable[[str], AbstractContextManager[Any]]
# By the name of the method: the name of the span, and the attribute that says whether it succeeded.
SPANS = {
    "look_up": ("cache look-up", "cache.hit"),
    "is_valid": ("cache validation", "cache.hit"),
    "fill": ("cache fill", "cache.stored"),
    "invalidate_together": ("cache invalidation", ""),
}


def trace(store: Store, open_span: OpenSpan) -> None:
    """Trace this store. A command that several callers share has a span for each of them."""
    for method, (name, attribute) in SPANS.items():
        setattr(store, method, _traced(getattr(store, method), open_span, name, attribute))


def _traced(
    operation: Callable[..., Awaitable[Any]], open_span: OpenSpan, name: str, attribute: str
) -> Callable[..., Awaitable[Any]]:
    async def run(*arguments: Any) -> Any:
        with open_span(name) as span:
            result = await operation(*arguments)
            if attribute:
                span.set_attribute(attribute, result is True or isinstance(result, Entry))
            return result

    return run
