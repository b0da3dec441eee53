"""Notices what is left open: connections that a request keeps, tasks that nobody awaits."""

import asyncio
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Engine, event

from app.infra.observability.diagnostics.report import report
from app.infra.observability.request_context import request_context

HOLDER = "exchange"


def watch_connections(engine: Engine) -> None:
    """Note on each exchange how many connections it holds: at its end, none may be left."""
    event.listen(engine, "checkout", _checked_out)
    event.listen(engine, "checkin", _checked_in)


def _checked_out(_connection: Any, record: Any, _proxy: Any) -> None:
    if (current := request_context.get()) is not None:
        current.connections += 1
        record.info[HOLDER] = current


def _checked_in(_connection: Any, record: Any) -> None:
    if (holder := record.info.pop(HOLDER, None)) is not None:
        holder.connections -= 1


def _lost(context: dict[str, Any]) -> str:
    """Say what was lost by name: the text of an exception may tell values."""
    task, error = context.get("future"), context.get("exception")
    name = task.get_coro().__qualname__ if isinstance(task, asyncio.Task) else task  # type: ignore[union-attr]
    return f"{context.get('message')}: {name} raised {type(error).__qualname__}"


@contextmanager
def watching_tasks(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Report tasks whose exception nobody took, and coroutines that were never awaited."""

    def on_lost(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        report("lost_task", _lost(context))
        loop.default_exception_handler(context)

    show = warnings.showwarning

    def on_warning(message: Warning | str, *details: Any, **more: Any) -> None:
        if "was never awaited" in str(message):
            report("lost_task", str(message))
        show(message, *details, **more)

    before = loop.get_exception_handler()
    loop.set_exception_handler(on_lost)
    warnings.showwarning = on_warning
    try:
        yield
    finally:
        warnings.showwarning = show
        loop.set_exception_handler(before)
