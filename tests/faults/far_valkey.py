"""Stands between the workers and Valkey, on a loop of its own, and makes every round trip longer.

It runs in a thread of its own: the load of a case would hold up what it passes on.
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
    """A Valkey whose distance can be changed."""

    url: str
    proxy: Proxy

    def move(self, seconds: float) -> None:
        """Let every answer take that much longer."""
        self.proxy.delay_seconds = seconds


@contextmanager
def far_away(valkey: Valkey) -> Iterator[FarValkey]:
    """Open the way to a Valkey, at first without any delay."""
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
