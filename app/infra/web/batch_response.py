"""A long response that is sent in batches. It ends visibly incomplete if it cannot be completed.

It ends when the client leaves or does not read, when the database fails, and when the server shuts
down. HTTP has no other sign for that than closing the connection before the last chunk.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing

from anyio.to_thread import run_sync
from sqlalchemy.exc import DBAPIError
from starlette.requests import ClientDisconnect
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from app.errors import Unavailable
from app.infra.database.error_mapping import describe
from app.infra.observability.request_context import request_context
from app.infra.web.content_codings import Encoder
from app.infra.web.server_error import ClientTooSlow, ResponseCutOff

PIECE_BYTES = 128 * 1024
SEND_SECONDS = 30.0  # in which a client has to read a piece

Batches = AsyncGenerator[memoryview, None]


class BatchResponse(StreamingResponse):
    """Sends what `batches` yields. It is closed in any case, and holds nothing meanwhile.

    With an encoder, each batch is compressed in a thread, and can be decompressed as soon as it
    has arrived.
    """

    def __init__(
        self,
        batches: Batches,
        shutdown: asyncio.Event,
        *,
        encoder: Encoder | None,
        headers: Mapping[str, str],
        media_type: str,
    ) -> None:
        super().__init__(batches, headers=headers, media_type=media_type)
        self._batches, self._shutdown, self._encoder = batches, shutdown, encoder

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        if (current := request_context.get()) is not None:
            current.has_place = True
            current.stop_clock()  # how fast the client reads is not latency
        async with asyncio.TaskGroup() as group:
            sending = group.create_task(self._send(send))
            leaving = group.create_task(self.listen_for_disconnect(receive))
            stopping = group.create_task(self._shutdown.wait())
            tasks = sending, leaving, stopping
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()
        if not sending.cancelled():
            if error := sending.result():
                raise error
        elif leaving.cancelled():
            raise ResponseCutOff("the server shuts down")
        else:
            raise ClientDisconnect

    async def _send(self, send: Send) -> Exception | None:
        """Send everything. Return the error if the response cannot be completed."""
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        try:
            async with aclosing(self._batches):
                await send(start)
                await self._send_batches(send)
        except ResponseCutOff as error:
            return error
        except Unavailable as error:
            return ResponseCutOff(error.detail)
        except DBAPIError as error:
            return ResponseCutOff(describe(error))
        return None

    async def _send_batches(self, send: Send) -> None:
        encoder, end = self._encoder, b""
        async for batch in self._batches:
            data: bytes | memoryview = batch
            if encoder is not None:
                data = await run_sync(encoder.encode, batch)
            await _send_pieces(send, data)
            del batch, data  # before the next one is read
        if encoder is not None:
            end = encoder.finish()
        await send({"type": "http.response.body", "body": end})


async def _send_pieces(send: Send, data: bytes | memoryview) -> None:
    for start in range(0, len(data), PIECE_BYTES):
        body = bytes(data[start : start + PIECE_BYTES])
        try:
            async with asyncio.timeout(SEND_SECONDS):
                await send({"type": "http.response.body", "body": body, "more_body": True})
        except TimeoutError:
            raise ClientTooSlow from None
