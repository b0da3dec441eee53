"""Long responses on servers that tell of a client's departure in another way than Uvicorn."""

import asyncio
from collections.abc import AsyncGenerator

import pytest
from starlette.requests import ClientDisconnect
from starlette.types import Message

from app.infra.web.batch_response import PIECE_BYTES, BatchLimits, BatchResponse
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


async def test_others_get_the_event_loop_while_a_client_reads_as_fast_as_it_is_sent_to() -> None:
    """`send` does not wait for such a client."""
    waiting, sent = asyncio.get_running_loop().create_future(), list[Message]()

    async def batches() -> AsyncGenerator[memoryview, None]:
        yield memoryview(bytes(10 * PIECE_BYTES))

    async def send(message: Message) -> None:
        sent.append(message)
        if len(sent) == 2:  # the start of the response, and a piece
            asyncio.get_running_loop().call_soon(waiting.set_result, None)

    async def other_request() -> int:
        await waiting
        return len(sent)

    limits = BatchLimits(asyncio.Event(), grace_seconds=60, send_seconds=60)
    response = BatchResponse(batches(), limits, headers={}, media_type="text/csv")
    served, _ = await asyncio.gather(other_request(), response({}, stay, send))
    assert served < len(sent) == 12
