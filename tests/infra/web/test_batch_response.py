"""Long responses on servers that tell of a client's departure in another way than Uvicorn."""

import asyncio
from collections.abc import AsyncGenerator

import pytest
from starlette.requests import ClientDisconnect
from starlette.types import Message

from app.infra.web.batch_response import BatchLimits, BatchResponse
from app.infra.web.server_error import ClientTooSlow


async def stay() -> Message:
    await asyncio.Event().wait()
    raise AssertionError


@pytest.mark.parametrize("sent", [0, 1])
async def test_server_that_refuses_to_send_says_that_the_client_has_left(sent: int) -> None:
    closed, messages = asyncio.Event(), list[Message]()

    async def batches() -> AsyncGenerator[memoryview, None]:
        try:
            yield memoryview(b"a line\n")
        finally:
            closed.set()

    async def send(message: Message) -> None:
        if len(messages) == sent:
            raise OSError
        messages.append(message)

    limits = BatchLimits(asyncio.Event(), grace_seconds=60, send_seconds=60)
    response = BatchResponse(batches(), limits, headers={}, media_type="text/csv")
    with pytest.raises(ClientDisconnect):
        await response({}, stay, send)
    assert closed.is_set() == bool(sent)


@pytest.mark.parametrize("sent", [0, 1])
async def test_client_that_does_not_read_is_cut(sent: int) -> None:
    """Even before the start of the response, if it has not read an earlier one."""
    messages = list[Message]()

    async def batches() -> AsyncGenerator[memoryview, None]:
        yield memoryview(b"a line\n")

    async def send(message: Message) -> None:
        if len(messages) == sent:
            await stay()
        messages.append(message)

    limits = BatchLimits(asyncio.Event(), grace_seconds=60, send_seconds=0.05)
    response = BatchResponse(batches(), limits, encoder=None, headers={}, media_type="text/csv")
    with pytest.raises(ClientTooSlow):
        async with asyncio.timeout(60):
            await response({}, stay, send)
