"""Tasks that run beside the requests, for as long as a process does."""

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

logger = logging.getLogger(__name__)

AGAIN_SECONDS = 0.1


@asynccontextmanager
async def in_background(coroutine: Coroutine[Any, Any, None], name: str) -> AsyncIterator[None]:
    """Run a coroutine until the block is left, and leave it only when the coroutine has ended.

    It is cancelled as often as it takes: libraries take a cancellation for a timeout now and then
    (so does `asyncio.wait_for` before Python 3.12), and a shutdown would wait for ever.
    """
    task = asyncio.create_task(coroutine, name=name)
    task.add_done_callback(_tell_failure)
    try:
        yield
    finally:
        while not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=AGAIN_SECONDS)


def _tell_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("The task %s ended by itself", task.get_name(), exc_info=error)
