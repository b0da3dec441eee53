"""Reports tasks whose exception nobody handles, and coroutines that nobody awaits."""

import asyncio
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from app.infra.observability.diagnostics.report import report


@contextmanager
def watch_tasks() -> Iterator[None]:
    """Watch the tasks of the running event loop until the block is left."""
    loop = asyncio.get_running_loop()
    exception_handler, show_warning = loop.get_exception_handler(), warnings.showwarning

    def handle_exception(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if not _is_bare_future(context):
            report("lost_task", _describe(context))
        loop.default_exception_handler(context)

    def handle_warning(message: Warning | str, *details: Any, **options: Any) -> None:
        if "was never awaited" in str(message):
            report("lost_task", str(message))
        show_warning(message, *details, **options)

    loop.set_exception_handler(handle_exception)
    warnings.showwarning = handle_warning
    try:
        yield
    finally:
        warnings.showwarning = show_warning
        loop.set_exception_handler(exception_handler)


def _is_bare_future(context: dict[str, Any]) -> bool:
    """Tell whether it is a future without a task. asyncpg leaves one if a connect is cancelled."""
    future = context.get("future")
    return isinstance(future, asyncio.Future) and not isinstance(future, asyncio.Task)


def _describe(context: dict[str, Any]) -> str:
    """Name the task and the type of the exception. Its text may contain values of a request."""
    task, error = context.get("future") or context.get("task"), context.get("exception")
    described = str(context.get("message"))
    if isinstance(task, asyncio.Task):
        coroutine = task.get_coro()  # for an async generator that is closed, without a name
        described += f": {getattr(coroutine, '__qualname__', type(coroutine).__name__)}"
    return described if error is None else f"{described} raised {type(error).__qualname__}"
