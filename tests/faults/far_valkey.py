"""A proxy between the workers and Valkey that makes every round trip longer.

It runs on an event loop in a thread of its own, because the clients of a case would delay it.
"""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

from tests.coherent_cache.worker import Proxy
from tests.faults.valkey import Valkey


@dataclass(frozen=True)
class FarValkey:
    """A Valkey whose round trip can be made longer."""

    url: str
    proxy: Proxy

    def move(self, seconds: float) -> None:
        """Delay every reply by this time."""
        self.proxy.delay_seconds = seconds


@contextmanager
def far_away(valkey: Valkey) -> Iterator[FarValkey]:
    """Open a proxy to a Valkey, at first without a delay."""
    proxy = Proxy(valkey.url)
    is_open, is_over = threading.Event(), threading.Event()

    async def stand_between() -> None:
        await proxy.start()
        is_open.set()
        await asyncio.to_thread(is_over.wait)
        proxy.stop()

    thread = threading.Thread(target=lambda: asyncio.run(stand_between()), daemon=True)
    thread.start()
    assert is_open.wait(timeout=20)
    port = urlsplit(valkey.url).port
    try:
        yield FarValkey(valkey.url.replace(f":{port}/", f":{proxy.port}/"), proxy)
    finally:
        is_over.set()
        thread.join()
