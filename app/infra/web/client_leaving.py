"""Ends the work for a client that has gone away.

ASGI servers do not cancel a request when its client disconnects. They tell it to an application
that calls `receive`, which is what this module does.
"""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from starlette.requests import ClientDisconnect, Request

from app.infra.observability.background import detached

T = TypeVar("T")


async def until_client_leaves(request: Request, work: Awaitable[T]) -> T:
    """Return the result of `work`, or cancel it when the client disconnects.

    Then this raises `ClientDisconnect`, which needs no response. It is for reads that cost much,
    and have no body. A change that is cancelled while it is committed may or may not be kept.
    """
    presence = asyncio.timeout(None)
    try:
        async with presence:
            watching = detached(_watch(request, presence))
            try:
                return await work
            finally:
                watching.cancel()
    except TimeoutError:
        if presence.expired():
            raise ClientDisconnect from None
        raise


async def _watch(request: Request, presence: asyncio.Timeout) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    presence.reschedule(asyncio.get_running_loop().time())
