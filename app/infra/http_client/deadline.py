"""How long a call may take within the request that makes it."""

import asyncio

from app.infra.observability.request_context import request_context

# The end of the time of a request, in which it answers after a call that timed out.
RESERVE_SECONDS = 0.1


def end_of_request() -> float | None:
    """Return when calls of the current request have to end, if it has a limit.

    The time is that of the event loop. A job has a limit too.
    """
    current = request_context.get()
    if current is None or current.deadline is None:
        return None
    return current.deadline - RESERVE_SECONDS


def end_of_call(total_seconds: float) -> float:
    """Return when a call that begins now has to end."""
    end = asyncio.get_running_loop().time() + total_seconds
    return min(end, end_of_request() or end)
