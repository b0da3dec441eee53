"""Tasks that outlive the request that starts them."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from contextvars import Context
from typing import Any, TypeVar

logger = logging.getLogger(__name__)

PAUSE_SECONDS = 1.0

T = TypeVar("T")
Work = Callable[[], Coroutine[Any, Any, None]]
# Runs a named background task until the block is left. Restarts the task whenever it ends early.
InBackground = Callable[[Work, str], AbstractAsyncContextManager[None]]


def detached(coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """Create a task with an empty context, so that it does not inherit the request's context."""
    return asyncio.create_task(coroutine, context=Context())


@asynccontextmanager
async def in_background(work: Work, name: str) -> AsyncIterator[None]:
    """Run `work` until the block is left. If `work` ends or fails, restart it after a pause."""

    async def supervise() -> None:
        while True:
            try:
                await work()
            except Exception:
                logger.exception("%s failed and will restart in %g s.", name, PAUSE_SECONDS)
            await asyncio.sleep(PAUSE_SECONDS)

    task = detached(supervise())
    try:
        yield
    finally:
        # Cancel repeatedly: a library may mistake a cancellation for its own timeout.
        while not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=0.1)
